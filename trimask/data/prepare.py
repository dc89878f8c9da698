"""Sources and tokenizers -> a prepared set of token shards. The same command resumes.

Work goes through `OUT.partial`, a folder with one file a chunk, which a kill at any moment leaves
usable; the finished set takes its place as `OUT` in one rename. The bytes of a set are a function of
the bytes of its sources, the reading options and the tokenizers, whatever the number of workers.
"""

import dataclasses
import json
import shutil
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from rich.console import Console

from trimask.core.compute import usable_cores
from trimask.core.errors import DataError, UsageError
from trimask.core.files import read_json, settled, write_json
from trimask.core.modality import KINDS
from trimask.core.remote import cached, is_remote, read, upload
from trimask.core.units import duration, si
from trimask.data import chunks
from trimask.data.chunks import Done, Task, Worker
from trimask.data.manifest import (
    MANIFEST,
    Manifest,
    SourceRecord,
    TokenizerRecord,
    parsed,
    read_manifest,
    tokenizer_records,
)
from trimask.data.merge import merge, write_rejected
from trimask.data.pools import AHEAD, Pool, Processes, RayActors
from trimask.data.progress import Counter
from trimask.data.provenance import describe_source, fingerprint, notices
from trimask.data.readers.base import Reader
from trimask.data.readers.detect import open_reader
from trimask.data.readers.source import Source
from trimask.data.shards import REJECTED
from trimask.tokenizers.contract import Tokenizer

MAX_REJECTED = 0.01
CHECK_AFTER = 1000
"""Records of a source after which its share of rejections can stop the run before the end."""

JOB = "job.json"
Existing = Literal["resume", "new", "fail"]
Executor = Literal["processes", "ray"]


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare`. `resumed` counts the chunks that an earlier run had finished."""

    folder: Path | str
    """Or its URL."""
    manifest: Manifest
    up_to_date: bool = False
    resumed: int = 0
    seconds: float = 0.0

    def lines(self) -> list[str]:
        """The summary that the command line prints."""
        m = self.manifest
        tokens = ", ".join(f"{kind} {si(n)}" for kind, n in m.tokens.items())
        state = "up to date" if self.up_to_date else f"prepared in {duration(self.seconds)}"
        resumed = f" ({self.resumed} chunks from an earlier run)" if self.resumed else ""
        lines = [f"{self.folder}: {state}{resumed}: {m.items} items; tokens: {tokens}"]
        lines += [_source_line(s) for s in m.sources]
        if m.rejected:
            lines.append(f"  {m.rejected} rejected records: see {self.folder}/{REJECTED}")
        return lines


@dataclass
class _Job:
    """All that a run works with; the lists are by source."""

    out: Path
    readers: list[Reader]
    records: list[SourceRecord]
    tokenizers: Mapping[str, Tokenizer]
    tokenizer_records: Mapping[str, TokenizerRecord]
    max_rejected: float
    console: Console
    url: str = ""
    """Where the finished set goes to, if not to a folder; `out` is in the cache then."""
    filtered: list[int] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)
    good: Tally[int] = field(default_factory=Tally)
    bad: Tally[int] = field(default_factory=Tally)
    resumed: int = 0

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.records, self.tokenizer_records)

    @property
    def partial(self) -> Path:
        return self.out.with_name(self.out.name + ".partial")


def prepare(
    sources: Sequence[Source | str],
    tokenizers: Mapping[str, Tokenizer],
    out: Path | str,
    *,
    workers: int | None = None,
    executor: Executor = "processes",
    gpus: float = 0.0,
    max_rejected: float = MAX_REJECTED,
    existing: Existing = "resume",
    folders: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Prepared:
    """Tokenise sources into `out`, a folder or a URL; what a URL gets is made in the cache first.

    `tokenizers` maps a modality to its tokenizer, `folders` optionally to the folder it was loaded
    from (recorded in the manifest). `workers` work in parallel (default: one a core): processes of this
    machine, or actors of Ray, each with a share `gpus` of a GPU.
    `existing` says what happens when `out` is there: resume (the same inputs are up to date, others
    are refused), new (build anew) or fail.

    Raises `UsageError` for a request that does not fit together, and `DataError` for a source that
    cannot be used, for more than the share `max_rejected` of a source's records rejected, for other
    content in `out`, and for a disk that is full.
    """
    start = time.monotonic()
    if not 0 <= max_rejected <= 1:
        raise UsageError(f"max_rejected={max_rejected} must lie between 0 and 1")
    if workers is not None and workers < 1:
        raise UsageError(f"workers={workers} must be at least 1")
    url = str(out).rstrip("/") if is_remote(out) else ""
    out = settled(cached(url, "made") if url else Path(out))
    if existing == "fail" and (_uploaded(url) if url else out.exists()):
        raise DataError(f"{url or out} exists already, and existing=fail was asked for")
    job = _open_job(sources, tokenizers, out, max_rejected, folders, console or Console())
    job.url = url
    with _disk_errors(out):
        manifest = _finished(job, existing)
        if manifest is not None:
            shutil.rmtree(job.partial, ignore_errors=True)
            return Prepared(url or out, manifest, up_to_date=True)
        manifest = _made(job) if url else None
        if manifest is None:
            _open_partial(job)
            _run(job, executor, workers, gpus)
            manifest = _finish(job)
        if url:
            upload(out, url, last=MANIFEST)
            shutil.rmtree(out)
    return Prepared(url or out, manifest, resumed=job.resumed, seconds=time.monotonic() - start)


def _open_job(
    sources: Sequence[Source | str],
    tokenizers: Mapping[str, Tokenizer],
    out: Path,
    max_rejected: float,
    folders: Mapping[str, str] | None,
    console: Console,
) -> _Job:
    if not sources:
        raise UsageError("no source was given; name at least one, for example ../data/emoji:train")
    made_by = tokenizer_records(tokenizers, folders)
    readers = [open_reader(s) for s in sources]
    for reader in readers:
        _require_tokenizers(reader, tokenizers)
    names = _names(readers)
    records = [describe_source(r, n, console) for r, n in zip(readers, names, strict=True)]
    return _Job(out, readers, records, tokenizers, made_by, max_rejected, console)


def _require_tokenizers(reader: Reader, tokenizers: Mapping[str, Tokenizer]) -> None:
    for kind in reader.kinds:
        if KINDS[kind] not in tokenizers:
            left = ",".join(k for k in reader.kinds if KINDS[k] in tokenizers)
            raise UsageError(
                f"{reader.source} holds {kind}, but no {KINDS[kind]} tokenizer was given; give one"
                + (f", or leave it out with ?kinds={left}" if left else "")
            )


def _names(readers: Sequence[Reader]) -> list[str]:
    """A name a source; equal ones are numbered."""
    names: list[str] = []
    for reader in readers:
        count = sum(n.rpartition("~")[0] == reader.source.name or n == reader.source.name for n in names)
        names.append(reader.source.name + (f"~{count + 1}" if count else ""))
    return names


def _finished(job: _Job, existing: Existing) -> Manifest | None:
    """The manifest of a finished set of this very job. Refuses other content in its place."""
    if existing == "new" or not (job.url or job.out.exists()):
        return None
    if job.url:
        manifest = _uploaded(job.url)
        if manifest is None:
            return None
    else:
        if not (job.out / MANIFEST).exists():
            raise DataError(f"{job.out} exists and is not a prepared set; name another folder or remove it")
        manifest = read_manifest(job.out)
    if manifest.fingerprint == job.fingerprint:
        return manifest
    raise DataError(
        f"{job.url or job.out} was prepared from other inputs ({_difference(manifest, job)}); name another folder, "
        "or say existing=new to build it anew"
    )


def _made(job: _Job) -> Manifest | None:
    """The manifest of the set of this job where it waits to be copied to its URL."""
    manifest = read_manifest(job.out) if (job.out / MANIFEST).exists() else None
    return manifest if manifest is not None and manifest.fingerprint == job.fingerprint else None


def _uploaded(url: str) -> Manifest | None:
    """The manifest of a set that lies at a URL."""
    found = read(f"{url}/{MANIFEST}")
    return None if found is None else parsed(f"{url}/{MANIFEST}", json.loads(found))


def _difference(manifest: Manifest, job: _Job) -> str:
    for name, record in job.tokenizer_records.items():
        made = manifest.tokenizers.get(name)
        if made is None or made.fingerprint != record.fingerprint:
            return f"the {name} tokenizer differs"
    if set(manifest.tokenizers) != set(job.tokenizer_records):
        return "it has more tokenizers"
    if [s.name for s in manifest.sources] != [s.name for s in job.records]:
        return f"its sources are {', '.join(s.name for s in manifest.sources)}"
    for old, new in zip(manifest.sources, job.records, strict=True):
        if old.sha256 != new.sha256:
            return f"the files of {new.name} differ"
        if (dict(old.options), old.format) != (dict(new.options), new.format):
            return f"the reading options of {new.name} differ: {old.source} is now {new.source}"
    return "another version or licence"


def _open_partial(job: _Job) -> None:
    """Take up the chunks of a killed run of this job; those of another job are of no use."""
    path = job.partial / JOB
    if job.partial.exists():
        same = path.exists() and read_json(path).get("fingerprint") == job.fingerprint
        if not same:
            job.console.print(f"{job.partial} belongs to other inputs and is begun anew")
            shutil.rmtree(job.partial)
    if not path.exists():
        write_json(path, {"fingerprint": job.fingerprint})


def _run(job: _Job, executor: Executor, workers: int | None, gpus: float) -> None:
    worker = Worker(job.readers, [r.name for r in job.records], job.tokenizers, job.partial)
    with Counter(job.console, f"preparing {job.out.name}", "records") as counter:

        def report(done: Done) -> None:
            job.good[done.source] += done.items
            job.bad[done.source] += done.rejected
            rejected = job.bad.total()
            counter.advance(done.items + done.rejected, f"{rejected} rejected" if rejected else "")
            _check_rejected(job, done.source, CHECK_AFTER)

        pending = _pending(job, report)
        workers = workers or usable_cores()
        first = list(islice(pending, AHEAD))
        if executor == "processes" and (workers == 1 or len(first) < AHEAD):
            _run_here(worker, first, pending, report)
        elif first:
            pool = Processes(worker, workers) if executor == "processes" else RayActors(worker, workers, gpus)
            with closing(pool):
                _run_pool(pool, chain(first, pending), report)
    for source in range(len(job.readers)):
        _check_rejected(job, source, 1)


def _pending(job: _Job, report: Callable[[Done], None]) -> Iterator[Task]:
    """Tasks whose chunk is not there yet; the others are reported as done."""
    job.filtered = [0] * len(job.readers)
    job.files = [[] for _ in job.readers]
    for source, reader in enumerate(job.readers):
        for task in chunks.tasks(source, reader, job.filtered):
            job.files[source].append(task.file)
            path = job.partial / task.file
            if path.exists():
                job.resumed += 1
                report(chunks.read_counts(path, source))
            else:
                yield task


def _run_here(worker: Worker, first: list[Task], pending: Iterator[Task], report: Callable[[Done], None]) -> None:
    with chunks.single_thread():
        for task in first:
            report(worker.run(task))
        for task in pending:
            report(worker.run(task))


def _run_pool(pool: Pool, pending: Iterator[Task], report: Callable[[Done], None]) -> None:
    while True:
        for task in islice(pending, pool.room):
            pool.start(task)
        if not pool.busy:
            return
        for done in pool.ended():
            report(done)


def _check_rejected(job: _Job, source: int, least: int) -> None:
    good, bad = job.good[source], job.bad[source]
    if good + bad >= least and bad > job.max_rejected * (good + bad):
        name = job.records[source].source
        raise DataError(
            f"{name}: {bad} of {good + bad} records rejected, more than the share {job.max_rejected:g} allowed: "
            f"{_rejections(job)}. Mend the source, or raise max_rejected and run the same command again"
        )


def _rejections(job: _Job) -> str:
    """The commonest reasons so far, and the file that has been written with all of them."""
    finished = [[f for f in names if (job.partial / f).exists()] for names in job.files]
    rows = write_rejected(job.partial, finished)
    reasons = Tally(_kind_of(row["reason"]) for row in rows)
    common = "; ".join(f"{n}x {reason}" for reason, n in reasons.most_common(3))
    return f"{common} (all in {job.partial / REJECTED})"


def _kind_of(reason: str) -> str:
    return reason if len(reason) <= 120 else reason[:120] + "..."


def _finish(job: _Job) -> Manifest:
    if not job.good.total():
        names = ", ".join(r.source for r in job.records)
        why = f"every record was rejected: {_rejections(job)}" if job.bad.total() else "there is no record"
        raise DataError(f"{names}: {why}; look with `trimask inspect`")
    records = [dataclasses.replace(r, filtered=n) for r, n in zip(job.records, job.filtered, strict=True)]
    manifest = merge(
        job.out,
        job.partial,
        job.files,
        records,
        job.tokenizer_records,
        job.fingerprint,
        [notices(r) for r in job.readers],
    )
    shutil.rmtree(job.partial)
    return manifest


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """A disk that is full or cannot be written is one clear error; what is done stays."""
    try:
        yield
    except OSError as e:
        where = e.filename or out
        raise DataError(
            f"{where}: {e.strerror or e}; make room or choose another folder; the same command goes on"
        ) from e


def _source_line(source: SourceRecord) -> str:
    rejected = f", {source.rejected} rejected" if source.rejected else ""
    filtered = f", {source.filtered} left out by where" if source.filtered else ""
    return f"  {source.source}: {source.items} items{rejected}{filtered}; licence: {source.licence}"

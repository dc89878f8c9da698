"""The run folder: what was run, where, and what it measured.

    config.json        the resolved configuration
    environment.json   machine, versions, code, and the choices of `train.device`
    code.patch         changes against the commit, where the package runs from a git checkout
    metrics.jsonl      rows with "kind": train, validation, event, or a hook's own
    samples/           written by hooks
    spikes/ failed/    batches saved for inspection
    checkpoints/       `train.checkpoint`

A folder is a run once it has its `config.json`.
"""

import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import trimask
from trimask.core.config import to_json
from trimask.core.errors import ArtifactError, DataError, TrainingError, UsageError
from trimask.core.files import read_json, replacing, sha256, write_json
from trimask.train.config import TrainConfig, differences
from trimask.train.device import Compute
from trimask.train.distributed import World

CONFIG, ENVIRONMENT, METRICS, PATCH = "config.json", "environment.json", "metrics.jsonl", "code.patch"
PACKAGES = ("torch", "numpy", "grain", "chz", "safetensors", "tokenizers")


@contextmanager
def opened(config: TrainConfig) -> Iterator["Run"]:
    """The run folder, new or to be resumed, held for this process alone.

    Raises `UsageError` when the folder exists and the policy or the configuration forbids to go on,
    `TrainingError` when another process trains in it.
    """
    folder = Path(config.run)
    if config.on_existing == "new" and (folder / CONFIG).exists():
        with _locked(folder):
            folder.rename(_aside(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        resumed = (folder / CONFIG).exists()
        if resumed:
            _check_resumable(folder, config)
        elif strangers := [p.name for p in folder.iterdir() if p.name not in (LOCK, ENVIRONMENT, PATCH)]:
            raise UsageError(f"{folder} is not empty and not a run ({strangers[0]} is in it); choose another run=")
        yield Run(folder, resumed)


LOCK = ".lock"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The system lets go of the lock when the process ends, however it ends.
    with (folder / LOCK).open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrainingError(f"{folder} is in use by another process; wait for it or choose another run=") from None
        yield


def _aside(folder: Path) -> Path:
    """The first free name for a run that makes room for a new one."""
    return next(p for n in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.{n}")).exists())


def _check_resumable(folder: Path, config: TrainConfig) -> None:
    if config.on_existing == "fail":
        raise UsageError(f"{folder} exists and on_existing=fail; use on_existing=resume or new, or another run=")
    try:
        saved = read_json(folder / CONFIG)
    except DataError as e:
        raise ArtifactError(f"{e}; use on_existing=new or another run=") from None
    changed = differences(saved, config)
    if changed:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise UsageError(
            f"{folder} was started with another configuration ({shown}). Give the same options to resume it, "
            "on_existing=new to start over, or another run="
        )


class Run:
    """An open run folder."""

    def __init__(self, folder: Path, resumed: bool, writes: bool = True):
        self.folder, self.resumed, self.writes = folder, resumed, writes
        self.threads: int | None = None
        """CPU threads of the run's start, where it is known."""

    def seen_by(self, world: World) -> "Run":
        """The run as one of its processes has it: only the first writes into the folder."""
        return self if world.first else Run(self.folder, self.resumed, writes=False)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def compute(self, config: TrainConfig, choose: Any) -> Compute:
        """The choices of `train.device`: those of the run's start, or those that `choose()` makes now."""
        path = self.folder / ENVIRONMENT
        if self.resumed and path.exists():
            content = _read(path)
            saved, self.threads = content["compute"], content["threads"]
            return Compute(**{**saved, "reasons": tuple(saved["reasons"])})
        compute: Compute = choose()
        commit, patch = code_version()
        write_json(path, {"code": commit, **environment(), "compute": dataclasses.asdict(compute)})
        if patch:
            with replacing(self.folder / PATCH) as temporary:
                temporary.write_text(patch)
        # Last, since its presence is what makes the folder a run.
        write_json(self.folder / CONFIG, to_json(config))
        return compute

    def rewind(self, step: int) -> None:
        """Drop the rows of `metrics.jsonl` after `step`, which a resumed run writes again."""
        path = self.folder / METRICS
        if not self.writes or not path.exists():
            return
        kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a row to `metrics.jsonl`."""
        if not self.writes:
            return
        row = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        with (self.folder / METRICS).open("a") as f:
            f.write(json.dumps(row) + "\n")


def _step(line: str) -> float:
    """Step of a row; a row cut short by a kill comes after everything."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DataError as e:
        raise ArtifactError(f"{e}; use on_existing=new or another run=") from None


def read_metrics(folder: Path | str, kind: str = "train") -> list[dict[str, Any]]:
    """Rows of one kind of a run's `metrics.jsonl`, in order. Raises `DataError`."""
    path = Path(folder) / METRICS
    if not path.exists():
        raise DataError(f"{folder} is not a run folder: it has no {METRICS}")
    rows = [json.loads(line) for line in path.read_text().splitlines() if _step(line) < float("inf")]
    return [row for row in rows if row["kind"] == kind]


def last(folder: Path, kind: str) -> dict[str, Any]:
    """The last row of a kind; empty where there is none yet."""
    rows = read_metrics(folder, kind) if (folder / METRICS).exists() else []
    return rows[-1] if rows else {}


def environment() -> dict[str, Any]:
    """Machine, versions and source of this process."""
    cuda = torch.cuda.is_available()
    return {
        "trimask": trimask.__version__,
        "source": source_hash(),
        "python": sys.version.split()[0],
        "packages": {p: importlib.metadata.version(p) for p in PACKAGES},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "command": sys.argv,
    }


def source_hash() -> str:
    """SHA-256 over the package's source files: names what ran, with or without git."""
    root = Path(trimask.__file__).parent
    lines = [f"{p.relative_to(root).as_posix()} {sha256(p)}" for p in sorted(root.rglob("*.py"))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_version() -> tuple[str | None, str]:
    """(commit, changes against it) of the git checkout that holds the package; (None, "") elsewhere."""
    root = Path(trimask.__file__).parent.parent
    if not (root / ".git").exists():
        return None, ""
    commit = _git(root, "rev-parse", "HEAD")
    return (commit.strip(), _git(root, "diff", "HEAD", "--", "trimask")) if commit else (None, "")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""

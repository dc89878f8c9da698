"""`trimask prepare`: sources to token shards."""

from pathlib import Path
from typing import Annotated

import typer

from trimask.cli.holders import tokenizers
from trimask.core.errors import UsageError

EXISTING = ("resume", "new", "fail")
EXECUTORS = ("processes", "ray")


def prepare(
    sources: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns or world:NAME, with options behind a ?.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL (s3://…) of the prepared set.")],
    holder: Annotated[
        str | None,
        typer.Option("--tokenizers", help="Folder of tokenizers, or a model (nano, a run) whose tokenizers to use."),
    ] = None,
    single: Annotated[
        list[Path] | None,
        typer.Option("--tokenizer", help="One tokenizer; may be given once a modality, goes before --tokenizers."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes or actors; by default one a core.")] = None,
    executor: Annotated[str, typer.Option(help="processes of this machine, or ray: a cluster, if there is one.")] = (
        "processes"
    ),
    gpus: Annotated[float, typer.Option(help="Share of a GPU that each of Ray's actors takes.")] = 0.0,
    max_rejected: Annotated[
        float | None, typer.Option(help="Stop when more than this share of a source's records is rejected.")
    ] = None,
    on_existing: Annotated[
        str, typer.Option(help="What to do where --out exists: resume, new (build anew) or fail.")
    ] = "resume",
) -> None:
    """Turn data into tokens for training.

    The same command resumes after a kill and does nothing when the set is up to date. Records that
    cannot be decoded go to OUT/rejected.jsonl with their reason.

    \b
    A source is PATH[:SPLIT][?option=value&option=value...]:
      photos/                      images with captions in .txt files or a metadata.jsonl
      books/*.txt.gz               texts; ?separator=line makes every line a record
      clips.jsonl?speech=path&text=sentence     which field holds what
      data.parquet, shards-*.tar (WebDataset), IDX files, a zip beside its jsonl
      world:scenes?count=20000     the built-in world
    `trimask inspect SOURCE` shows how a source is read before anything is prepared.

    \b
    Options behind the ?, values percent-encoded, lists with commas:
      format=auto                  archive, folder, idx, jsonl, parquet, text, tokens, webdataset, world
      text= voice= image= speech= sound=        the field of a record that holds this kind
      kinds=image,text             kinds to keep; require= those that a record must have
      caption=a photo of a {name}  template of the text; classes= names of labels 0, 1, ...
      where=licence:CC BY*         records whose FIELD matches; FIELD:!PATTERN those whose does not
      separator=line               of texts: line, file, or the line between documents; begins= a regular
                                   expression of the first line of a document
      image_size=32                the longest side in pixels; fit=crop or pad makes a square; max_pixels=
      loudness=-23                 RMS level in dB full scale; max_seconds=30; sound_as=sound for what
                                   is not speech
      root=clips                   folder that file names in records are relative to
      limit=1000                   read so many; licence= of the source; split= as behind the :
      count=20000, seed=0          of the world

    \b
    trimask prepare photos/ --tokenizers nano --out sets/photos
    trimask prepare "emoji:train?image_size=32" --tokenizers nano --out sets/emoji
    trimask prepare a.jsonl b.jsonl --tokenizer tokenizers/text --out sets/text --workers 4
    trimask prepare big/ --tokenizers tokenizers --out sets/big --executor ray --workers 64 --gpus 0.25
    """
    if on_existing not in EXISTING:
        raise UsageError(f"--on-existing {on_existing}: choose one of {', '.join(EXISTING)}")
    if executor not in EXECUTORS:
        raise UsageError(f"--executor {executor}: choose one of {', '.join(EXECUTORS)}")
    if gpus < 0 or (gpus and executor != "ray"):
        raise UsageError(f"--gpus {gpus:g} must not be negative, and is for --executor ray")
    if holder is None and not single:
        raise UsageError("say which tokenizers to use: --tokenizers nano, --tokenizers FOLDER or --tokenizer FOLDER")
    from trimask.data import prepare as work

    loaded, folders = tokenizers(holder, single or ())
    done = work.prepare(
        sources,
        loaded,
        out,
        workers=workers,
        executor=executor,  # pyright: ignore[reportArgumentType]
        gpus=gpus,
        max_rejected=work.MAX_REJECTED if max_rejected is None else max_rejected,
        existing=on_existing,  # pyright: ignore[reportArgumentType]
        folders=folders,
    )
    print("\n".join(done.lines()))

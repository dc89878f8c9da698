"""Make tokenizers of your own, and see how well they reconstruct."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimask.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from trimask.core.item import Item
    from trimask.data.readers.base import Reader, Record
    from trimask.tokenizers.contract import Tokenizer

KINDS = {"text": ("text",), "image": ("image",), "audio": ("speech", "sound")}
"""Modality -> kinds of content that its tokenizer is trained on."""
TEXT_CODES = 4096
SHOWN = 12
"""Samples of each set in a report."""
HELD_OUT = 100
"""Records of a held-out source that quality is measured on, if the source states no limit."""


class Contents:
    """The raw content of one modality in a source, with random access; records are decoded when asked for."""

    def __init__(self, source: str, modality: str):
        from trimask.core.errors import RecordError
        from trimask.data.readers.detect import open_reader

        self.reader: Reader = open_reader(source)
        self.kinds = [k for k in KINDS[modality] if k in self.reader.kinds]
        if not self.kinds:
            raise DataError(f"{source} holds {', '.join(self.reader.kinds)}, no {' or '.join(KINDS[modality])}")
        self.records: list[Record] = []
        for record in self.reader.selected():
            if isinstance(record, RecordError):
                raise record
            if record is not None:
                self.records.append(record)
        if not self.records:
            raise DataError(f"{source} has no records; look with `trimask inspect`")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        """Raises `RecordError` for a record that cannot be decoded, and names it."""
        parts = self.item(index).parts
        return next(parts[k] for k in self.kinds if k in parts)

    def item(self, index: int) -> "Item":
        """The whole record, which has content of the modality."""
        from trimask.core.item import Item

        record = self.records[index]
        item = self.reader.item(record)
        if not isinstance(item, Item) or not any(k in item.parts for k in self.kinds):
            raise record.bad(f"no {' or '.join(self.kinds)}; leave such records out with ?require={self.kinds[0]}")
        return item


def train(
    modality: Annotated[
        str, typer.Argument(help="text, image, audio; or nano for all three as the shipped model has.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Sources as for `trimask prepare`, and settings key=value.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the finished tokenizer.")] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(help="Source to measure reconstruction on; not trained on.")
    ] = None,
) -> None:
    """Train a tokenizer on sources. The same command resumes.

    Writes the tokenizer to OUT, a report with originals beside reconstructions to OUT-report.html,
    and, for image and audio, the run itself to OUT-run. Every source has the same share; settings
    are those of the training (steps, minutes, batch, rate, objective.settings.…), for text `codes`.

    \b
    trimask tokenizer train text books/ --out tokenizers/text codes=8192
    trimask tokenizer train image "photos/?image_size=32" --held-out "more/?image_size=32" \\
        --out tokenizers/image minutes=20
    trimask tokenizer train audio clips.jsonl --out tokenizers/audio objective.settings.codebooks=4
    trimask tokenizer train nano --out tokenizers data=DATA
    """
    from trimask.core.config import split_settings

    sources, settings = split_settings(arguments or ())
    if out is None:
        raise UsageError("say where the tokenizer goes: --out FOLDER")
    if modality == "nano":
        _nano(sources, [*settings, f"out={out}"])
        return
    if modality not in KINDS:
        raise UsageError(f"{modality!r} is no tokenizer to train; there are: {', '.join(KINDS)}, nano")
    if not sources:
        raise UsageError("say what to train on: one or several sources, as for `trimask prepare`")
    sets = {s: _first(s, modality) for s in held_out or ()}
    tokenizer = (
        _text(sources, settings, sets) if modality == "text" else _network(modality, sources, settings, sets, out)
    )
    _save(tokenizer, out)
    print(out)
    if sets:
        print(_report(tokenizer, sets, out.with_name(f"{out.name}-report.html")))


def _save(tokenizer: "Tokenizer", out: Path) -> None:
    """Raises `UsageError` rather than write over another tokenizer."""
    from trimask.tokenizers.artifact import MANIFEST, load

    if (out / MANIFEST).exists() and load(out).fingerprint != tokenizer.fingerprint:
        raise UsageError(f"{out} holds another tokenizer, which prepared sets may need; choose another --out")
    tokenizer.save(out)


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of the tokenizer.")],
    sources: Annotated[list[str], typer.Argument(help="Sources as for `trimask prepare`, not trained on.")],
    report: Annotated[Path | None, typer.Option(help="HTML file to write; by default beside the tokenizer.")] = None,
    recognizer: Annotated[
        Path | None, typer.Option(help="Folder of the recognizer; by default that of the package.")
    ] = None,
) -> None:
    """Measure how well a tokenizer reconstructs, and write originals beside reconstructions.

    Of speech with its text also the word error rate of a recognizer, of the recordings (wer_real) and
    of their reconstructions (wer). The recognizer of the package knows the words of the built-in world
    only; one of your own is a folder that `python -m trimask.recipes.judges` makes.

    \b
    trimask tokenizer evaluate tokenizers/image "photos:test?image_size=32"
    trimask tokenizer evaluate tokenizers/audio "clips:test?limit=50" --report audio.html
    """
    from trimask.tokenizers.artifact import load
    from trimask.tokenizers.quality import measure

    tokenizer = load(folder)
    sets = {s: _first(s, tokenizer.modality.name) for s in sources}
    for name, raws in sets.items():
        quality = measure(tokenizer, raws)
        if tokenizer.modality.name == "audio":
            quality |= _heard(tokenizer, name, recognizer)
        print(f"{name}: {', '.join(f'{k} {v:.4g}' for k, v in quality.items())}")
    print(_report(tokenizer, sets, report or folder.with_name(f"{folder.name}-report.html")))


def pretrained(
    family: Annotated[str, typer.Argument(help="movq, janus, emu3 (pictures); mimi, dac, higgs (sound).")],
    source: Annotated[str, typer.Argument(help="Folder with config.json and weights, or hf://OWNER/NAME.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the tokenizer.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the repository; say one, or it may change.")] = None,
    subfolder: Annotated[str, typer.Option(help="Folder within the source.")] = "",
    levels: Annotated[int | None, typer.Option(help="Codebooks of a frame of sound to use; by default all.")] = None,
    dtype: Annotated[str, typer.Option(help="Of its networks: fp32 or bf16.")] = "fp32",
) -> None:
    """Use a tokenizer that others have trained, with weights from a folder or from the hub.

    OUT names the weights and has a hash of them; what is prepared with it can be decoded by nothing else. Needs
    `pip install 'trimask[pretrained]'`.

    \b
    trimask tokenizer pretrained mimi models/mimi --levels 8 --out tokenizers/audio
    trimask tokenizer pretrained movq hf://kandinsky-community/kandinsky-2-2-decoder --subfolder movq \\
        --out tokenizers/image
    """
    from trimask.tokenizers.pretrained import HUB, PretrainedSettings
    from trimask.tokenizers.pretrained import pretrained as opened

    if out is None:
        raise UsageError("say where the tokenizer goes: --out FOLDER")
    if dtype not in ("fp32", "bf16"):
        raise UsageError(f"--dtype {dtype!r}: fp32 or bf16")
    # A folder is found from anywhere.
    source = source if source.startswith(HUB) else str(Path(source).resolve())
    how = {"revision": revision, "subfolder": subfolder, "levels": levels, "dtype": dtype}
    tokenizer = opened(PretrainedSettings(family=family, source=source, **how))
    _save(tokenizer, out)
    m = tokenizer.modality
    each = "pixels in both directions" if m.name == "image" else f"samples at {tokenizer.family.rate} Hz"
    print(f"{out}: {m.name}, {m.codes} codes, {m.levels} a position, one for {tokenizer.family.step} {each}")


def _heard(tokenizer: "Tokenizer", source: str, folder: Path | None) -> dict[str, float]:
    """Intelligibility, where the source has speech with its text and there is a recognizer."""
    from trimask.evaluation.audio import intelligibility
    from trimask.evaluation.recognizer import Recognizer
    from trimask.evaluation.suite import RECOGNIZER, SHIPPED

    folder = folder or (SHIPPED / RECOGNIZER)
    contents = Contents(source, "audio")
    if not {"text", "speech"} <= set(contents.reader.kinds) or not folder.is_dir():
        return {}
    items = [contents.item(i) for i in range(min(HELD_OUT, len(contents)))]
    spoken = [(i.parts["speech"], str(i.parts["text"])) for i in items if {"text", "speech"} <= set(i.parts)]
    if not spoken:
        return {}
    clips: list[Any] = [clip for clip, _ in spoken]
    return intelligibility(Recognizer.load(folder), clips, [text for _, text in spoken])(tokenizer)


def _nano(sources: Sequence[str], settings: Sequence[str]) -> None:
    import chz

    from trimask.core.config import configure
    from trimask.recipes.tokenizers import NanoTokenizers, nano_tokenizers

    if sources:
        raise UsageError(f"the nano tokenizers have their own sources; write data=FOLDER instead of {sources[0]!r}")
    nano_tokenizers(configure(chz.Blueprint(NanoTokenizers), settings, "nano tokenizers"))


def _text(sources: Sequence[str], settings: Sequence[str], sets: dict[str, list[Any]]) -> "Tokenizer":
    from trimask.tokenizers.quality import measure
    from trimask.tokenizers.text import TextTokenizer

    values = dict(s.split("=", 1) for s in settings)
    codes = values.pop("codes", str(TEXT_CODES))
    if values or not codes.isdecimal():
        raise UsageError(f"{' '.join(settings)!r}: a text tokenizer has one setting, codes=NUMBER")
    contents = [Contents(s, "text") for s in sources]
    tokenizer = TextTokenizer.train((c[i] for c in contents for i in range(len(c))), int(codes))
    quality = {name: measure(tokenizer, raws) for name, raws in sets.items()}
    return TextTokenizer(tokenizer.engine, quality, {"sources": list(sources)})


def _network(
    modality: str, sources: Sequence[str], settings: Sequence[str], sets: dict[str, list[Any]], out: Path
) -> "Tokenizer":
    import chz

    from trimask.core.config import configure
    from trimask.tokenizers.objectives import AudioObjective, ImageObjective
    from trimask.tokenizers.training import TokenizerTraining, Weighted, train_tokenizer

    objective = {"image": ImageObjective, "audio": AudioObjective}[modality]
    blueprint = chz.Blueprint(TokenizerTraining).apply({"objective": objective})
    config = configure(blueprint, settings, f"{modality} tokenizer")
    mixture = [Weighted(s, Contents(s, modality)) for s in sources]
    return train_tokenizer(config, mixture, out.with_name(f"{out.name}-run"), sets)


def _first(source: str, modality: str) -> list[Any]:
    contents = Contents(source, modality)
    return [contents[i] for i in range(min(HELD_OUT, len(contents)))]


def _report(tokenizer: "Tokenizer", sets: dict[str, list[Any]], path: Path) -> Path:
    from trimask.tokenizers.report import write_report

    write_report(path, tokenizer, {name: raws[:SHOWN] for name, raws in sets.items()})
    return path

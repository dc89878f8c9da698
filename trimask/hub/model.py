"""The generation API: one object that writes, draws, speaks, describes, transcribes, fills and scores.

    import trimask
    m = trimask.load("nano")
    m.image("a red circle above two blue squares").save("out.png")
    samples, rate = m.speech("seven")
    m.caption("x.png"); m.transcribe("x.wav")
    m.fill(text="a red [1] above a blue square", image="x.png")
    m.score(text="a red circle")

Everything is a row of segments that is laid out (`hub.layout`), completed by the sampling engine
(`hub.engine`) and decoded. Results depend on the request and the seed, not on what else is asked
for in the same call; the k-th equal request of a call gets the k-th sample.
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Unpack

import numpy as np

from trimask.core.canvas import Canvas, Row, rows_of
from trimask.core.compute import device_of, dtype_of
from trimask.core.errors import DataError, UsageError
from trimask.core.item import Audio, Item
from trimask.core.modality import KINDS, Vocabulary
from trimask.data.tasks import VOICE, Task
from trimask.diffusion.bounds import Bound, Plan, by_count, by_time
from trimask.hub import filling, media
from trimask.hub.bundle import Bundle, find, load_bundle
from trimask.hub.defaults import Defaults, Overrides
from trimask.hub.engine import OnStep, Placed, Runner, SettingsOf
from trimask.hub.holes import MOST
from trimask.hub.layout import Layout, Size, Target, keyed, keys_of, numbered, task_of
from trimask.hub.media import AudioLike, ImageLike

FIT_DRAWS = 16
"""Model evaluations that judge one candidate length of a free hole inside a text or a sound."""


@dataclass(frozen=True)
class Score:
    """An upper bound on -log p(targets | given) in nats, by two estimators of the same number."""

    task: str
    by_count: Bound
    """Exact in the number of masked tokens (RADD, Ou et al. 2024)."""
    by_time: Bound
    """Stratified in the masking rate."""
    length_given: bool
    """Whether the bound is for targets of known length (pictures always are)."""
    bytes: int | None = None
    """UTF-8 bytes of the target, where it is one text."""

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte by `by_count`; None where the target is not one text."""
        return self.by_count.nats / math.log(2) / self.bytes if self.bytes else None

    @property
    def nats_per_token(self) -> float:
        """Nats per target token by `by_count`, END included."""
        return self.by_count.nats / self.by_count.tokens

    def __str__(self) -> str:
        name = "bound, length given" if self.length_given else "bound"
        lines = [
            f"{self.task}: {name} {b.nats:.2f} ± {b.error:.2f} nats ({how}), {b.tokens} tokens"
            for how, b in (("by count", self.by_count), ("by time", self.by_time))
        ]
        if self.bytes and self.bits_per_byte is not None:
            error = self.by_count.error / math.log(2) / self.bytes
            lines.append(f"{self.bits_per_byte:.3f} ± {error:.3f} bits per byte over {self.bytes} bytes")
        return "\n".join(lines)


_NEGATIVE = "negative"


class Gap(Protocol):
    """A text with one word missing."""

    @property
    def before(self) -> str: ...

    @property
    def word(self) -> str: ...

    @property
    def after(self) -> str: ...


class Model:
    """A model with its tokenizers, ready to use.

    Texts, pictures (path, PIL image, uint8 array) and sounds (path, `(samples, rate)`) go in; strings,
    PIL images and `Audio` pairs `(samples, rate)` come out. Methods take one value or a list of
    values; `n` asks for several samples of each. Sampling options are `seed` and those of `Overrides`;
    defaults come from the bundle. `fill` takes all but the seed as `options`, since its keywords are the parts.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        dtype: str = "auto",
        weaker: Bundle | None = None,
        compile: bool = False,
    ):
        if weaker is not None and _written_in(weaker) != _written_in(bundle):
            raise UsageError("the weaker model has other tokenizers or another vocabulary; guidance needs the same")
        place = device_of(device)
        for made in (bundle, weaker):
            if compile and made is not None:
                made.model.compiled(dynamic=True)
        placed = [Placed(b.model, place, dtype_of(dtype, place)) for b in (bundle, weaker) if b is not None]
        self.bundle = bundle
        self.layout = Layout(bundle.model.vocabulary, bundle.tokenizers, bundle.defaults)
        self.runner = Runner(placed[0], self.vocabulary, *placed[1:], context=bundle.context)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.bundle.model.vocabulary

    def sampled(self, defaults: Defaults) -> "Model":
        """The same model with other sampling defaults."""
        other = copy(self)
        other.bundle = replace(self.bundle, defaults=defaults)
        other.layout = Layout(self.vocabulary, self.bundle.tokenizers, defaults)
        return other

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.bundle.model.parameters())
        kinds = ", ".join(self.vocabulary.kinds)
        return f"Model({parameters / 1e6:.1f}M parameters; {kinds}; on {self.runner.placed.device})"

    def image(
        self,
        text: str | list[str] | None = None,
        n: int = 1,
        *,
        negative: str | list[str] | None = None,
        size: tuple[int, int] = (32, 32),
        seed: int = 0,
        on_step: OnStep | None = None,
        **options: Unpack[Overrides],
    ) -> Any:
        """Draw a text, or anything: a PIL image, or a list for a list or `n` > 1. `size`: (width, height).

        `negative` is a text that guidance pushes away from.
        """
        return self._make("image", {"text": text}, n, Size(pixels=size), seed, on_step, options, negative)

    def speech(
        self,
        text: str | list[str] | None = None,
        voice: str | list[str] | None = None,
        seconds: float | None = None,
        n: int = 1,
        *,
        negative: str | list[str] | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
        **options: Unpack[Overrides],
    ) -> Any:
        """Speak a text: `Audio` (samples float32 (N,), rate). Without `seconds` the model decides how long.

        `negative` is a text that guidance pushes away from.
        """
        given = {"text": text, "voice": voice}
        return self._make("speech", given, n, Size(seconds=seconds), seed, on_step, options, negative)

    def text(
        self,
        prompt: str | list[str] = "",
        n: int = 1,
        *,
        length: int | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
        **options: Unpack[Overrides],
    ) -> Any:
        """Write a text that begins with `prompt`. `length`: tokens in all; by default the model ends it."""
        prompts = prompt if isinstance(prompt, list) else [prompt]
        codes = self.layout.encode("text", [media.sentence(p).removesuffix(" ") for p in prompts])
        rows = [self.layout.row({}, {"text": self._rest(c, length)}) for c in codes]
        return self._answer("text", rows, isinstance(prompt, list), n, seed, on_step, options)

    def caption(
        self,
        image: ImageLike | list[ImageLike],
        n: int = 1,
        *,
        side: int | None = None,
        length: int | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
        **options: Unpack[Overrides],
    ) -> Any:
        """Describe a picture. `side` resizes its longest side to that many pixels first."""
        images = image if isinstance(image, list) else [image]
        read: Any = [media.picture(i, side) for i in images]
        given = {"image": read if isinstance(image, list) else read[0]}
        return self._make("text", given, n, Size(length=length), seed, on_step, options)

    def transcribe(
        self,
        audio: AudioLike | list[AudioLike],
        n: int = 1,
        *,
        length: int | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
        **options: Unpack[Overrides],
    ) -> Any:
        """Write down what a recording says."""
        return self._make("text", {"speech": audio}, n, Size(length=length), seed, on_step, options)

    def fill(
        self,
        canvas: Row | Canvas | None = None,
        /,
        *,
        box: Sequence[int] | None = None,
        mask: ImageLike | None = None,
        interval: Sequence[float] | None = None,
        missing: str | Sequence[str] = (),
        size: tuple[int, int] = (32, 32),
        seconds: float | str | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
        options: Overrides | None = None,
        **parts: Any,
    ) -> Any:
        """Fill the holes of the parts of one item; returns the completed parts by kind.

        Parts are keywords named by kind (`text`, `image`, `speech`, `sound`, `voice`). A part with a
        hole is completed, any other is a condition. Holes: `[...]`, `[3]` or `[___]` in a text; `box`
        (left, top, right, bottom in pixels) or `mask` (white is filled) for the picture; `interval`
        (start, end in seconds) for the sound, which is replaced by as much, by so many `seconds`, or with
        `seconds="any"` by as much as the model finds best. Kinds in `missing` are made from nothing, pictures
        of `size`, sounds of `seconds`. What is kept keeps its tokens exactly.

        A hole of any length inside a text or a sound is tried at several (`hub.layout.HOLE_LENGTHS`, `STRETCHES`).
        The result with the least bound per token is returned. Where a sound is given with its text, that is the bound
        of the text, given the sound. At the end of a part the model itself decides where to stop.

        A `Row` or a `Canvas` of codes with hidden targets may be given instead of parts; it is returned filled.
        """
        if isinstance(canvas, Canvas):
            return self._fill_canvas(canvas, seed, on_step, options or {})
        if canvas is not None:
            return self._fill_row(self.layout.prepared(canvas), seed, on_step, options or {})
        if settings := [name for name in parts if name in Overrides.__annotations__]:
            raise UsageError(f"{settings[0]} is a setting of sampling: give it as options={{{settings[0]!r}: ...}}")
        missing = (missing,) if isinstance(missing, str) else missing
        asked = filling.Request(parts, box, mask, interval, missing, Size(size, seconds))
        rows = filling.rows_of(asked, self.layout)
        # Of several lengths, those that the model knows; where it knows none of them, the first error is the answer.
        rows = [row for row in rows if self.runner.fits(row)] or rows[:1]
        made = self.runner.complete(rows, self._settings(options or {}), seed, on_step)
        best = made[self._best(rows, made, seed)] if len(rows) > 1 else made[0]
        return {kind: self._show(kind, [codes])[0] for kind, codes in best.items()}

    def score(
        self,
        canvas: Row | Canvas | None = None,
        /,
        *,
        target: str | Sequence[str] | None = None,
        free: bool = True,
        draws: int = 32,
        seed: int = 0,
        **parts: Any,
    ) -> Score:
        """The bound on -log p(target | other parts) of one item; `draws` model evaluations an estimator.

        `target` names the kinds to be scored; it may be left out where there is one part. With `free`
        the length counts too (under the largest free span that the model knows, if the target fits
        it); else it is given. A `Row` of codes, or a filled `Canvas` of one item, may be given instead of parts.
        """
        if isinstance(canvas, Canvas):
            items = rows_of(canvas, self.vocabulary)
            if len(items) != 1:
                raise UsageError(f"score takes one item, the canvas has {len(items)}; score its rows one by one")
            canvas = items[0]
        row, size = (canvas, None) if canvas is not None else self._scored(parts, target, free)
        row = row if row.key else keyed(row)
        count, time = (self.runner.bounds([row], plan, draws, seed)[0] for plan in (by_count, by_time))
        planes = all(s.span is None for s in row.segments if s.target)
        return Score(row.task, count, time, planes, size)

    # Batched forms, as the evaluation suite takes them: lists in, lists out. One long item must not end an evaluation.

    @property
    def _of_any_length(self) -> "Model":
        """The same model, which is also asked for what is longer than the rows that it was trained on."""
        other = copy(self)
        other.runner = copy(self.runner)
        other.runner.context = None
        return other

    def images(self, captions: Sequence[str], seed: int, size: tuple[int, int] = (32, 32)) -> list[np.ndarray]:
        """uint8 (Y, X, 3) of each caption; `size` is (width, height)."""
        return [np.array(i) for i in self._of_any_length.image(list(captions), seed=seed, size=size)]

    def clips(self, texts: Sequence[str], voices: Sequence[str] | None, seed: int) -> list[Audio]:
        """A recording of each text, each in its voice."""
        return self._of_any_length.speech(list(texts), None if voices is None else list(voices), seed=seed)

    def texts(self, n: int, seed: int) -> list[str]:
        """`n` texts from nothing."""
        return self.text([""] * n, seed=seed)

    def captions(self, images: Sequence[np.ndarray], seed: int) -> list[str]:
        """A caption of each uint8 picture (Y, X, 3)."""
        return self._of_any_length.caption(list(images), seed=seed)

    def transcripts(self, clips: Sequence[Audio], seed: int) -> list[str]:
        """A transcript of each recording."""
        return self._of_any_length.transcribe(list(clips), seed=seed)

    def words(self, gaps: Sequence[Gap], seed: int) -> list[str]:
        """The most probable word in each gap of a text; the number of its tokens is given."""
        targets = [self.layout.gap(g.before, g.word, g.after) for g in gaps]
        rows = numbered([self.layout.row({}, {"text": t}) for t in targets])
        made = self._of_any_length.runner.complete(rows, self._settings({"temperature": 0.0}), seed)
        hidden = [np.flatnonzero(t.hidden) for t in targets]
        return [s.strip() for s in self._show("text", [m["text"][h] for m, h in zip(made, hidden, strict=True)])]

    def bounds(
        self, items: Sequence[Item], task: str, plan: Plan, draws: int, seed: int, free: bool = False
    ) -> list[Bound]:
        """The bound of each item's targets in a task, its condition clean; see `Layout.scored` for `free`."""
        asked = Task.parse(task)
        kinds = [*asked.given, *asked.target]
        if any(KINDS[k] == "audio" for k in asked.target):
            kinds += ["voice"]
        parts = [{k: i.parts[k] for k in kinds if k in i.parts} for i in items]
        for item in items:
            if lacking := [k for k in (*asked.given, *asked.target) if k not in item.parts]:
                raise DataError(f"{item.key} has no {lacking[0]}, which the task {task} needs")
        rows = [
            self.layout.scored({k: self.layout.encode(k, [v])[0] for k, v in p.items()}, asked.target, free)
            for p in parts
        ]
        return self.runner.bounds(rows, plan, draws, seed)

    def _make(
        self,
        kind: str,
        conditions: Mapping[str, Any],
        n: int,
        size: Size,
        seed: int,
        on_step: OnStep | None,
        options: Overrides,
        negative: str | list[str] | None = None,
    ) -> Any:
        """Samples of a whole part, given conditions that are each one value or a list of equal lengths."""
        if negative is not None and conditions.get("text") is None:
            raise UsageError("a negative text needs a text: it says what that text is not to become")
        if negative is not None and self.runner.engine.weaker is not None:
            raise UsageError("guidance is away from a weaker model or from a negative text, not from both")
        conditions = {**conditions, _NEGATIVE: negative}
        stated = {k: v for k, v in conditions.items() if v is not None}
        lists = {k: len(v) for k, v in stated.items() if isinstance(v, list)}
        if len(set(lists.values())) > 1:
            raise UsageError(f"lists of different lengths: {', '.join(f'{k} {m}' for k, m in lists.items())}")
        count = next(iter(lists.values()), 1)
        columns = {k: v if isinstance(v, list) else [v] * count for k, v in stated.items()}
        kinds = {k: "text" if k == _NEGATIVE else k for k in columns}
        codes = {k: self.layout.encode(kinds[k], [media.raw(kinds[k], v) for v in columns[k]]) for k in columns}
        pushed = codes.pop(_NEGATIVE, None)
        task = task_of(codes, [kind])
        speaks = self.layout.modality(kind).grid == "frames"
        spoken = [len(t) for t in columns["text"]] if speaks and "text" in columns else [0] * count
        targets = {m: self.layout.whole(kind, task, size, m) for m in set(spoken)}
        rows, others = (
            [self.layout.row({k: v[i] for k, v in given.items()}, {kind: targets[m]}) for i, m in enumerate(spoken)]
            for given in (codes, codes if pushed is None else {**codes, "text": pushed})
        )
        return self._answer(kind, rows, bool(lists), n, seed, on_step, options, None if pushed is None else others)

    def _answer(
        self,
        kind: str,
        rows: Sequence[Row],
        many: bool,
        n: int,
        seed: int,
        on_step: OnStep | None,
        options: Overrides,
        negative: Sequence[Row] | None = None,
    ) -> Any:
        """One value for one request; a list for a list or for several samples; lists of lists for both."""
        if n < 1:
            raise UsageError(f"n must be at least 1, got {n}")
        if negative or self.runner.engine.weaker:
            own = [self._settings(options)(r.task, [KINDS[kind]])[KINDS[kind]] for r in rows]
            if not any(settings.guided for settings in own):
                raise UsageError(f"guidance of {kind} is 0: it goes away from nothing; pass guidance, for example 2")
        others = [r for r in negative for _ in range(n)] if negative else None
        copies = numbered([r for r in rows for _ in range(n)], others)
        made = self.runner.complete(copies, self._settings(options), seed, on_step, others)
        shown = self._show(kind, [m[kind] for m in made])
        groups = [shown[i : i + n] if n > 1 else shown[i] for i in range(0, len(shown), n)]
        return groups if many else groups[0]

    def _show(self, kind: str, codes: Sequence[np.ndarray]) -> list[Any]:
        return [media.SHOW[KINDS[kind]](raw) for raw in self.layout.decode(kind, codes)]

    def _settings(self, options: Overrides) -> SettingsOf:
        return lambda task, made: {m: self.bundle.defaults.of(task, m, options) for m in made}

    def _rest(self, codes: np.ndarray, length: int | None) -> Target:
        if length is None:
            return self.layout.continued(codes, "text", "text")
        if length <= len(codes):
            raise UsageError(f"the prompt has {len(codes)} tokens; a text of length={length} leaves nothing to write")
        if length > MOST:
            raise UsageError(f"length={length} is longer than any row that a model is trained on")
        padded = np.concatenate([codes, np.zeros(length - len(codes), np.int32)])
        return Target(padded, None, np.arange(length) >= len(codes))

    def _fill_canvas(self, canvas: Canvas, seed: int, on_step: OnStep | None, options: Overrides) -> Canvas:
        home = canvas.ids_BL.device
        canvas = canvas.to(self.runner.placed.home)
        made = {m.name for m in self.vocabulary.modalities}
        if canvas.spans:
            made = {KINDS[s.kind] for s in canvas.spans if s.target}
        self.runner.check_positions(canvas)
        return self.runner.fill(canvas, self._settings(options)("any", made), seed, keys_of(canvas), on_step).to(home)

    def _fill_row(self, row: Row, seed: int, on_step: OnStep | None, options: Overrides) -> Row:
        made = self.runner.complete([row], self._settings(options), seed, on_step)[0]
        done = (replace(s, codes=made[s.kind], hidden=None) if s.target else s for s in row.segments)
        return replace(row, segments=tuple(done))

    def _best(self, rows: Sequence[Row], made: Sequence[Mapping[str, np.ndarray]], seed: int) -> int:
        """The candidate that is most probable by token; of sounds that speak a text, the one that tells it best.

        A sound may go on cheaply, by token: what it says is the better judge of its length.
        """
        done = [
            replace(r, segments=tuple(replace(s, codes=m.get(s.kind, s.codes), hidden=None) for s in r.segments))
            for r, m in zip(rows, made, strict=True)
        ]
        if any(s.kind == "text" and not s.target for s in rows[0].segments):
            codes = [{s.kind: s.codes for s in r.segments if s.kind != VOICE} for r in done]
            done = [self.layout.scored(c, ["text"], free=False) for c in codes]
        bounds = self.runner.bounds(done, by_count, FIT_DRAWS, seed)
        return int(np.argmin([b.nats / b.tokens for b in bounds]))

    def _scored(
        self, parts: Mapping[str, Any], target: str | Sequence[str] | None, free: bool
    ) -> tuple[Row, int | None]:
        kinds = [k for k in parts if k != "voice"]
        chosen = [target] if isinstance(target, str) else list(target or (kinds if len(kinds) == 1 else ()))
        if not chosen or any(k not in parts for k in chosen):
            raise UsageError(
                f"say which part is to be scored: target is one or several of {', '.join(parts) or 'none'}"
            )
        raws = {k: media.raw(k, v) for k, v in parts.items()}
        codes = {k: self.layout.encode(k, [v])[0] for k, v in raws.items()}
        size = len(raws[chosen[0]].encode()) if chosen == ["text"] else None
        return self.layout.scored(codes, chosen, free), size


def _written_in(bundle: Bundle) -> tuple[Vocabulary, dict[str, str]]:
    """What the ids of a bundle's canvases mean."""
    return bundle.model.vocabulary, {k: t.fingerprint for k, t in bundle.tokenizers.items()}


def load(
    name: str | Path = "nano",
    device: str = "auto",
    dtype: str = "auto",
    weaker: str | Path | None = None,
    compile: bool = False,
) -> Model:
    """A model by the name of a shipped one, or by the path of a bundle, a checkpoint or a run folder.

    `device`: auto, cpu, cuda or mps. `dtype` of computing: auto (bf16 on CUDA, else fp32), bf16, fp32. `weaker` names a
    model, such as an early checkpoint of the same run, that guidance pushes away from instead of the null condition.
    `compile` the blocks with torch.compile: pays where minutes are spent sampling, and needs a C++ compiler on the CPU.
    Raises `ArtifactError` where there is no such model, or it is damaged or of another make.
    """
    return Model(load_bundle(find(name)), device, dtype, load_bundle(find(weaker)) if weaker else None, compile)

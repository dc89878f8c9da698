"""The sampling engine: masked tokens of any canvas are drawn, and a sampler decides which to keep.

Text, pictures and sound, generation, infilling and editing are all this one loop. A row's draws
depend on (seed, row key, step) alone, so its result does not depend on its batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimask.core.canvas import Canvas, Query, Span, queries
from trimask.core.errors import UsageError
from trimask.core.modality import Vocabulary
from trimask.core.rng import generator
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.guidance import guided
from trimask.diffusion.samplers import Sampler, View


@dataclass(frozen=True)
class Settings:
    """How the tokens of one modality are drawn and in which order they are revealed."""

    sampler: Sampler
    temperature: float = 1.0
    """0 takes the most probable id."""
    top_p: float = 1.0
    top_k: int = 0
    """0 for no limit."""
    guidance: float = 0.0
    """w in (1 + w) * conditional - w * null."""

    def __post_init__(self):
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.sampler.steps < 1:
            raise UsageError(
                "sampling needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and at least one step; got "
                f"temperature={self.temperature}, top_p={self.top_p}, top_k={self.top_k}, steps={self.sampler.steps}"
            )


@dataclass(frozen=True)
class Progress:
    """State between two steps; what the callback of `sample` receives."""

    canvas: Canvas
    step: int
    steps: int
    total_MB: Tensor
    """int64: tokens each row had to fill at the start, per modality."""
    unit_BL: Tensor
    """int64: number of each token's position, from the first that the row had to fill of its modality."""


def to_fill(canvas: Canvas, vocabulary: Vocabulary) -> Bool[Tensor, "B L"]:
    """bool (B, L): targets that are masked. A masked condition is withheld, not to be filled."""
    return (canvas.ids_BL == vocabulary.mask) & canvas.maskable_BL


class Engine:
    """Fills canvases with one denoiser. `settings` maps modality names to how each is sampled."""

    def __init__(self, denoiser: Denoiser, vocabulary: Vocabulary, settings: Mapping[str, Settings]):
        self.denoiser, self.vocabulary = denoiser, vocabulary
        self.settings = [settings.get(m.name) for m in vocabulary.modalities]
        of_alphabet = [a.modality for a in vocabulary.alphabets]
        levels = [a.level for a in vocabulary.alphabets]
        self._modality = torch.tensor([*of_alphabet, -1])
        self._level = torch.tensor([*levels, 0])

    def start(self, canvas: Canvas, seed: int, keys: Sequence[str | int]) -> Progress:
        """The state before the first step: lengths are drawn. A canvas with nothing to fill is a `UsageError`."""
        present = [m for m, total_B in enumerate(self._totals(canvas)) if total_B.any()]
        if not present:
            raise UsageError("the canvas has nothing to fill: no target token is masked")
        for m in present:
            if self.settings[m] is None:
                raise UsageError(f"no sampling settings for modality {self.vocabulary.modalities[m].name!r}")
        canvas = self._with_lengths(canvas, seed, keys)
        steps = max(self._of(m).sampler.steps for m in present)
        return Progress(canvas, 0, steps, self._totals(canvas), self._units(canvas))

    def _totals(self, canvas: Canvas) -> Int[Tensor, "M B"]:
        """Tokens to fill of each modality and row."""
        todo_BL = to_fill(canvas, self.vocabulary)
        modality_BL = self._lookup(self._modality, canvas)
        return torch.stack([(todo_BL & (modality_BL == m)).sum(1) for m in range(len(self.settings))])

    def _units(self, canvas: Canvas) -> Int[Tensor, "B L"]:
        unit_BL, modality_BL = units(canvas), self._lookup(self._modality, canvas)
        todo_BL, last = to_fill(canvas, self.vocabulary), canvas.shape[1]
        for m in range(len(self.settings)):
            mine_BL = modality_BL == m
            first_B = unit_BL.masked_fill(~(mine_BL & todo_BL), last).amin(1)
            unit_BL = torch.where(mine_BL, unit_BL - first_B[:, None], unit_BL)
        return unit_BL

    def _with_lengths(self, canvas: Canvas, seed: int, keys: Sequence[str | int]) -> Canvas:
        """Draw where each free span ends, before anything in it: END there and FILL behind it.

        Of a span that is wholly masked, the probabilities of END at its units are the law of its length, so this is
        exact for an exact model. Token by token, one wrong code far behind would make a long span of a short
        one. One evaluation for every free span of the fullest row; guidance does not act on lengths.
        """
        v = self.vocabulary
        for turn in range(canvas.shape[1]):
            ids_BL = canvas.ids_BL
            spans = {s.row: s for s in reversed(canvas.spans) if s.free and self._is_masked(ids_BL, s)}
            if not spans:
                break
            ends_BL = torch.full(canvas.shape, -torch.inf, device=ids_BL.device)
            first_BL = torch.zeros_like(canvas.maskable_BL)
            for span in spans.values():
                first_BL[span.row, _first_tokens(span)] = True
            asked = queries(canvas, first_BL, v)
            for query, log_p_NA in zip(asked, guided(self.denoiser, canvas, asked, [0.0] * len(asked), v), strict=True):
                column = v.alphabets[query.alphabet].codes
                ends_BL.view(-1)[query.index_N[: query.count]] = log_p_NA[: query.count, column]
            ids_BL = ids_BL.clone()
            for row, span in spans.items():
                noise_1 = torch.tensor([generator("length", seed, keys[row], turn).random()], device=ids_BL.device)
                alphabet = v.alphabets[v.alphabet(span.kind)]
                log_p_1U = ends_BL[row, _first_tokens(span)][None]
                end = int(draw(log_p_1U.log_softmax(-1), noise_1, self._of(alphabet.modality)))
                units = ids_BL[row, span.start : span.start + span.length].view(span.shape[0], -1)
                units[end], units[end + 1 :] = alphabet.end, alphabet.fill
            canvas = canvas.with_ids(ids_BL)
        return canvas

    def _is_masked(self, ids_BL: Tensor, span: Span) -> bool:
        return bool((ids_BL[span.row, span.start : span.start + span.length] == self.vocabulary.mask).all())

    def step(self, state: Progress, seed: int, keys: Sequence[str | int]) -> Progress:
        """One model evaluation: draw every masked token, reveal those the samplers choose."""
        canvas, v = state.canvas, self.vocabulary
        todo_BL = to_fill(canvas, v)
        asked = queries(canvas, todo_BL, v)
        if not asked:
            return replace(state, step=state.steps)
        token_noise_BL, order_noise_BL = self._noise(canvas, seed, keys, state.step)
        scale = [self._of(v.alphabets[q.alphabet].modality).guidance for q in asked]
        log_p = guided(self.denoiser, canvas, asked, scale, v)
        drawn_BL, score_BL = (
            canvas.ids_BL.clone(),
            torch.full(canvas.shape, -torch.inf, device=canvas.ids_BL.device),
        )
        for query, log_p_NA in zip(asked, log_p, strict=True):
            self._draw(query, log_p_NA, token_noise_BL, drawn_BL, score_BL)
        keep_BL = self._reveal(state, todo_BL, score_BL, order_noise_BL)
        return replace(
            state, canvas=canvas.with_ids(torch.where(keep_BL, drawn_BL, canvas.ids_BL)), step=state.step + 1
        )

    def _of(self, modality: int) -> Settings:
        settings = self.settings[modality]
        assert settings is not None
        return settings

    def _lookup(self, table: Tensor, canvas: Canvas) -> Tensor:
        return table.to(canvas.ids_BL.device)[canvas.alphabet_BL]

    def _noise(self, canvas: Canvas, seed: int, keys: Sequence[str | int], step: int) -> tuple[Tensor, Tensor]:
        length = canvas.shape[1]
        rows = np.stack([generator("sample", seed, key, step).random((2, length)) for key in keys])
        noise = torch.from_numpy(rows).to(canvas.ids_BL.device)
        return noise[:, 0], noise[:, 1].float()

    def _draw(self, query: Query, log_p_NA: Tensor, noise_BL: Tensor, drawn_BL: Tensor, score_BL: Tensor) -> None:
        """Draw one id for every queried token and note its log-probability."""
        alphabet = self.vocabulary.alphabets[query.alphabet]
        index = query.index_N[: query.count]
        log_p_NA = log_p_NA[: query.count]
        if not torch.isfinite(log_p_NA.amax(-1)).all():
            raise UsageError("the model returned logits that are not finite; the checkpoint is damaged or diverged")
        column = draw(log_p_NA, noise_BL.flatten()[index], self._of(alphabet.modality))
        ids = torch.from_numpy(alphabet.ids).to(index.device)
        drawn_BL.view(-1)[index] = ids[column]
        score_BL.view(-1)[index] = log_p_NA.gather(1, column[:, None]).squeeze(1)

    def _reveal(self, state: Progress, todo_BL: Tensor, score_BL: Tensor, noise_BL: Tensor) -> Tensor:
        canvas = state.canvas
        modality_BL = self._lookup(self._modality, canvas)
        level_BL = self._lookup(self._level, canvas)
        keep_BL = torch.zeros_like(todo_BL)
        for m, settings in enumerate(self.settings):
            if settings is None or not state.total_MB[m].any():
                continue
            mine_BL = todo_BL & (modality_BL == m)
            if state.step + 1 >= settings.sampler.steps:
                keep_BL |= mine_BL
                continue
            view = View(state.step, mine_BL, score_BL, noise_BL, level_BL, state.unit_BL, state.total_MB[m])
            keep_BL |= settings.sampler.reveal(view) & mine_BL
        return keep_BL


def _first_tokens(span: Span) -> slice:
    """The first level's token of each of a span's units."""
    return slice(span.start, span.start + span.length, span.length // span.shape[0])


def units(canvas: Canvas) -> Int[Tensor, "B L"]:
    """int64 (B, L): number of each token's position within its segment, from its first position."""
    b, p = canvas.segment_BP.shape
    groups = canvas.sees_BGG.shape[1]
    segment_BL = canvas.segment_BP.gather(1, canvas.slot_BL)
    group_BL = torch.where(canvas.alphabet_BL >= 0, segment_BL, groups)
    first_BG = torch.full((b, groups + 1), p, device=canvas.slot_BL.device)
    first_BG = first_BG.scatter_reduce(1, group_BL, canvas.slot_BL, "amin")
    return canvas.slot_BL - first_BG.gather(1, group_BL)


def draw(log_p_NA: Float[Tensor, "N A"], noise_N: Float[Tensor, " N"], settings: Settings) -> Int[Tensor, " N"]:
    """One column per row by inverse CDF: int64 (N,). One uniform number a row, in float64."""
    if settings.temperature == 0:
        return log_p_NA.argmax(-1)
    p = filtered(log_p_NA, settings)
    cumulative = p.cumsum(-1, dtype=torch.float64)
    column = torch.searchsorted(cumulative, (noise_N * cumulative[:, -1])[:, None], right=True).squeeze(1)
    # Rounding may point past the last id of positive probability.
    last = p.shape[1] - 1 - (p.flip(1) > 0).int().argmax(1)
    return torch.minimum(column, last)


def filtered(log_p_NA: Float[Tensor, "N A"], settings: Settings) -> Float[Tensor, "N A"]:
    """Probabilities (N, A) after temperature, top-k and top-p (nucleus, Holtzman et al. 2020)."""
    log_p = log_p_NA / settings.temperature
    if 0 < settings.top_k < log_p.shape[1]:
        least = log_p.topk(settings.top_k).values[:, -1:]
        log_p = log_p.masked_fill(log_p < least, -torch.inf)
    p = log_p.softmax(-1)
    if settings.top_p < 1:
        ordered, order = p.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= settings.top_p
        p = p.masked_fill(torch.zeros_like(outside).scatter(1, order, outside), 0.0)
    return p


def sample(
    engine: Engine,
    canvas: Canvas,
    seed: int = 0,
    keys: Sequence[str | int] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Canvas:
    """Fill every masked target of a canvas. `keys` name the rows (default: their numbers).

    The same seed and key give the same row, whatever else is in the batch (same machine, dtype,
    thread count and row length).
    """
    final = canvas
    for state in steps(engine, canvas, seed, keys):
        final = state.canvas
        if on_step:
            on_step(state)
    return final


@torch.inference_mode()
def steps(engine: Engine, canvas: Canvas, seed: int, keys: Sequence[str | int] | None = None) -> Iterator[Progress]:
    """The states after each step, until nothing is left to fill."""
    keys = range(canvas.shape[0]) if keys is None else keys
    state = engine.start(canvas, seed, keys)
    while state.step < state.steps:
        state = engine.step(state, seed, keys)
        yield state

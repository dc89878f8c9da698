"""The sampling engine: masked tokens of any canvas are drawn, and samplers decide which and when.

Text, pictures and sound, generation, infilling and editing are all this one loop. A model takes no time as an input, so
rows at different steps, of different tasks, with different settings share one forward pass. A row's draws depend on
(seed, row key, step, token) alone, so its result does not depend on its batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from trimask.core.canvas import Canvas, Query, Span, queries
from trimask.core.errors import UsageError
from trimask.core.modality import Vocabulary
from trimask.core.rng import Part as KeyPart
from trimask.core.rng import generator, row_key, uniforms
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.drawing import draw, repeated
from trimask.diffusion.guidance import Against, against, guided
from trimask.diffusion.objective import columns
from trimask.diffusion.samplers import Move, View
from trimask.diffusion.settings import Settings, at

DRAWN = 0
"""Counter of the numbers that decide which id is drawn; samplers use those from 1 on."""


@dataclass(frozen=True)
class Part:
    """The tokens of one modality in the rows that share settings."""

    modality: int
    settings: Settings
    mine_BL: Bool[Tensor, "B L"]
    """bool: tokens that were to be filled at the start."""
    total_B: Int[Tensor, " B"]
    """int64: their number in each row."""
    units_B: np.ndarray
    """int64: grid units of each row from the first to the last of them."""
    steps_B: np.ndarray
    """int64: steps of each row, 0 in rows without such tokens; a limit where the sampler is adaptive."""

    def below(self, other: "Part") -> "Part":
        """The same with the rows of another below."""
        tensors = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in ("mine_BL", "total_B")}
        arrays = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("units_B", "steps_B")}
        return replace(self, **tensors, **arrays)


@dataclass(frozen=True)
class State:
    """Rows between two steps."""

    canvas: Canvas
    """Without its `spans`, which do not change."""
    key_B: Int[Tensor, " B"]
    """int64: key of each row's randomness."""
    step_B: np.ndarray
    """int64, on the host: steps that each row has had."""
    parts: tuple[Part, ...]
    level_BL: Int[Tensor, "B L"]
    unit_BL: Int[Tensor, "B L"]
    ends_BL: Bool[Tensor, "B L"]
    """bool: tokens that may become END or FILL."""
    negative: Against | None = None

    @property
    def limit(self) -> np.ndarray:
        """int64 (B,): steps that each row takes at most."""
        return np.max([np.zeros_like(self.step_B), *(part.steps_B for part in self.parts)], axis=0)

    def rows(self, index: Sequence[int] | np.ndarray) -> "State":
        """The state of some of the rows, as if the others had never been there."""
        at = torch.as_tensor(np.asarray(index), device=self.key_B.device)
        parts = tuple(
            replace(p, mine_BL=p.mine_BL[at], total_B=p.total_B[at], units_B=p.units_B[index], steps_B=p.steps_B[index])
            for p in self.parts
        )
        return State(
            self.canvas.rows(index), self.key_B[at], self.step_B[index], parts,
            self.level_BL[at], self.unit_BL[at], self.ends_BL[at],
            None if self.negative is None else self.negative.rows(index),
        )  # fmt: skip

    def below(self, other: "State") -> "State":
        """These rows with those of another state, of the same padded lengths, below them: they go on together.

        Raises `UsageError` where one of them has negative conditions.
        """
        if self.negative is not None or other.negative is not None:
            raise UsageError("rows with a negative condition cannot join others")
        parts, none_BL = [], torch.zeros_like(other.ends_BL)
        for part in self.parts:
            twin = next((p for p in other.parts if (p.modality, p.settings) == (part.modality, part.settings)), None)
            parts.append(part.below(twin or replace(part, **_empty(none_BL))))
        for part in other.parts:
            if not any((p.modality, p.settings) == (part.modality, part.settings) for p in self.parts):
                parts.append(replace(part, **_empty(torch.zeros_like(self.ends_BL))).below(part))
        key_B, level_BL, unit_BL, ends_BL = (
            torch.cat([getattr(self, name), getattr(other, name)])
            for name in ("key_B", "level_BL", "unit_BL", "ends_BL")
        )
        step_B, canvas = np.concatenate([self.step_B, other.step_B]), self.canvas.below(other.canvas)
        return State(canvas, key_B, step_B, tuple(parts), level_BL, unit_BL, ends_BL)


def _empty(none_BL: Tensor) -> dict[str, Any]:
    """Fields of a part that has no tokens in so many rows."""
    none_B = np.zeros(len(none_BL), np.int64)
    return {"mine_BL": none_BL, "total_B": none_BL.sum(1), "units_B": none_B, "steps_B": none_B}


@dataclass(frozen=True)
class Progress:
    """What the callback of `sample` receives after a step: all rows, finished ones too."""

    canvas: Canvas
    step: int
    """Steps so far."""
    steps: int
    """Steps that the row that takes longest needs, at most."""


def to_fill(canvas: Canvas, vocabulary: Vocabulary) -> Bool[Tensor, "B L"]:
    """bool (B, L): targets that are masked. A masked condition is withheld, not to be filled."""
    return (canvas.ids_BL == vocabulary.mask) & canvas.maskable_BL


class Engine:
    """Fills canvases with one denoiser. With a `weaker` one guidance is away from what that one says."""

    def __init__(self, denoiser: Denoiser, vocabulary: Vocabulary, weaker: Denoiser | None = None):
        self.denoiser, self.vocabulary, self.weaker = denoiser, vocabulary, weaker
        self._modality = torch.tensor([*(a.modality for a in vocabulary.alphabets), -1])
        self._level = torch.tensor([*(a.level for a in vocabulary.alphabets), 0])
        self._ids = [torch.from_numpy(a.ids) for a in vocabulary.alphabets]

    @torch.inference_mode()
    def start(
        self,
        canvas: Canvas,
        settings: Mapping[str, Settings] | Sequence[Mapping[str, Settings]],
        seed: int = 0,
        keys: Sequence[KeyPart] | None = None,
        ends_BL: Tensor | None = None,
        negative: Canvas | None = None,
    ) -> State:
        """The state before the first step: lengths of free spans are drawn.

        `settings` maps modality names to how each is sampled, for all rows or for each. `keys` name the rows (default:
        their numbers). `ends_BL` says which tokens may become END or FILL (default: any). `negative` holds the same
        targets under another condition, which guidance pushes away from. Raises `UsageError` when there is nothing
        to fill, settings of a modality are missing, or guidance is to be away from two things.
        """
        count = canvas.shape[0]
        keys = range(count) if keys is None else keys
        of_row = [settings] * count if isinstance(settings, Mapping) else list(settings)
        ends_BL = torch.ones_like(canvas.maskable_BL) if ends_BL is None else ends_BL
        if not bool(to_fill(canvas, self.vocabulary).any()):
            raise UsageError("the canvas has nothing to fill: no target token is masked")
        self._check(canvas, of_row)
        if negative is not None and self.weaker is not None:
            raise UsageError("guidance is away from a weaker model or from a negative condition, not from both")
        other = None if negative is None else against(canvas, negative)
        canvas, ends_BL = self._with_lengths(canvas, of_row, ends_BL, seed, keys)
        key_B = torch.tensor([row_key("sample", seed, k) for k in keys], device=canvas.ids_BL.device)
        parts, unit_BL = self._parts(canvas, of_row)
        level_BL = self._lookup(self._level, canvas)
        bare = replace(canvas, spans=())
        return State(bare, key_B, np.zeros(count, np.int64), parts, level_BL, unit_BL, ends_BL, other)

    def _check(self, canvas: Canvas, of_row: Sequence[Mapping[str, Settings]]) -> None:
        modality_BL = self._lookup(self._modality, canvas).masked_fill(~to_fill(canvas, self.vocabulary), -1)
        for row, present in enumerate(modality_BL.tolist()):
            for m in {*present} - {-1}:
                name = self.vocabulary.modalities[m].name
                if name not in of_row[row]:
                    raise UsageError(f"no sampling settings for modality {name!r}")

    def _parts(self, canvas: Canvas, of_row: Sequence[Mapping[str, Settings]]) -> tuple[tuple[Part, ...], Tensor]:
        """What is to be filled, by modality and settings; and the units from the first of them in each row."""
        todo_BL, modality_BL = to_fill(canvas, self.vocabulary), self._lookup(self._modality, canvas)
        unit_BL, last = units(canvas), canvas.shape[1]
        parts = []
        for m, row in enumerate(self.vocabulary.modalities):
            own_BL = todo_BL & (modality_BL == m)
            first_B = unit_BL.masked_fill(~own_BL, last).amin(1)
            unit_BL = torch.where(modality_BL == m, unit_BL - first_B[:, None], unit_BL)
            for settings in dict.fromkeys(s[row.name] for s in of_row if row.name in s):
                rows_B = torch.tensor([s.get(row.name) == settings for s in of_row], device=own_BL.device)
                mine_BL = own_BL & rows_B[:, None]
                total_B = mine_BL.sum(1)
                if not bool(total_B.any()):
                    continue
                units_B = (unit_BL.masked_fill(~mine_BL, -1).amax(1) + 1).cpu().numpy()
                steps_B = settings.sampler.length(total_B.cpu().numpy(), units_B)
                parts.append(Part(m, settings, mine_BL, total_B, units_B, steps_B))
        return tuple(parts), unit_BL

    def _with_lengths(
        self,
        canvas: Canvas,
        of_row: Sequence[Mapping[str, Settings]],
        ends_BL: Tensor,
        seed: int,
        keys: Sequence[KeyPart],
    ) -> tuple[Canvas, Tensor]:
        """Draw where each free span ends, before anything in it: END there and FILL behind it.

        Of a span that is wholly masked, the probabilities of END at its units are the law of its length, so this is
        exact for an exact model. Token by token, one wrong code far behind would make a long span of a short
        one. One evaluation for every free span of the fullest row; guidance does not act on lengths. What is before
        the end can be neither END nor FILL any more.
        """
        v, ends_BL = self.vocabulary, ends_BL.clone()
        for turn in range(canvas.shape[1]):
            ids_BL = canvas.ids_BL
            spans = {s.row: s for s in reversed(canvas.spans) if s.free and self._is_masked(ids_BL, s)}
            if not spans:
                break
            log_p_BL = torch.full(canvas.shape, -torch.inf, device=ids_BL.device)
            first_BL = torch.zeros_like(canvas.maskable_BL)
            for span in spans.values():
                first_BL[span.row, _first_tokens(span)] = True
            first_BL &= ends_BL
            asked = queries(canvas, first_BL, v)
            for query, logits_NA in zip(asked, self.denoiser(canvas, asked), strict=True):
                log_p_NA = logits_NA[: query.count].log_softmax(-1)
                log_p_BL.view(-1)[query.index_N[: query.count]] = log_p_NA[:, v.alphabets[query.alphabet].codes]
            ids_BL = ids_BL.clone()
            for row, span in spans.items():
                alphabet = v.alphabets[v.alphabet(span.kind)]
                own = of_row[row][v.modalities[alphabet.modality].name]
                noise_1 = torch.tensor([generator("length", seed, keys[row], turn).random()], device=ids_BL.device)
                log_p_1U = log_p_BL[row, _first_tokens(span)][None]
                end = int(draw(log_p_1U, noise_1, own, float(at(own.temperature, np.zeros(1))[0]))[0])
                here = slice(span.start, span.start + span.length)
                laid = ids_BL[row, here].view(span.shape[0], -1)
                laid[end], laid[end + 1 :] = alphabet.end, alphabet.fill
                ends_BL[row, here] = False
            canvas = canvas.with_ids(ids_BL)
        return canvas, ends_BL

    def _is_masked(self, ids_BL: Tensor, span: Span) -> bool:
        return bool((ids_BL[span.row, span.start : span.start + span.length] == self.vocabulary.mask).all())

    @torch.inference_mode()
    def step(self, state: State) -> State:
        """One step of every row that is not finished: at most one evaluation of the model for all of them.

        Samplers whose order does not depend on the model choose first, and only what they reveal is scored. Raises
        `UsageError` for logits that are not finite.
        """
        canvas = state.canvas
        turns = [self._turn(state, part) for part in state.parts]
        asked = [(turn, query) for turn in turns for query in self._queries(state, turn)]
        drawn_BL, score_BL = canvas.ids_BL.clone(), torch.full(canvas.shape, -torch.inf, device=canvas.ids_BL.device)
        if asked:
            scale = [turn.guidance for turn, _ in asked]
            queried = [query for _, query in asked]
            logits = guided(self.denoiser, canvas, queried, scale, self.vocabulary, state.negative, self.weaker)
            column_L = torch.arange(canvas.shape[1], device=canvas.ids_BL.device)
            step_B = torch.from_numpy(state.step_B).to(canvas.ids_BL.device)
            uniform_BL = uniforms(state.key_B[:, None], DRAWN, step_B[:, None], column_L)
            for (turn, query), logits_NA in zip(asked, logits, strict=True):
                self._draw(canvas, turn, query, logits_NA, uniform_BL, drawn_BL, score_BL)
        ids_BL = canvas.ids_BL
        for turn in turns:
            move = turn.decided(score_BL)
            ids_BL = torch.where(move.reveal_BL, drawn_BL, ids_BL)
            if move.hide_BL is not None:
                ids_BL = ids_BL.masked_fill(move.hide_BL, self.vocabulary.mask)
        return replace(state, canvas=canvas.with_ids(ids_BL), step_B=state.step_B + 1)

    def finished(self, state: State) -> np.ndarray:
        """bool (B,): rows that need no further step."""
        done_B = state.step_B >= state.limit
        if any(p.settings.sampler.adaptive for p in state.parts):
            full_B = ~to_fill(state.canvas, self.vocabulary).any(1).cpu().numpy()
            revised = [p.steps_B > state.step_B for p in state.parts if p.settings.sampler.remasks]
            done_B |= full_B & ~np.any([np.zeros_like(full_B), *revised], axis=0)
        return done_B

    def _turn(self, state: State, part: Part) -> "_Turn":
        masked_BL = part.mine_BL & (state.canvas.ids_BL == self.vocabulary.mask)
        filled_BL, sampler = part.mine_BL & ~masked_BL, part.settings.sampler
        view = View(
            masked_BL, filled_BL, state.level_BL, state.unit_BL, state.key_B, state.step_B, part.steps_B, part.units_B,
            part.total_B,
        )  # fmt: skip
        if sampler.adaptive:
            progress_B = (filled_BL.sum(1) / part.total_B.clamp(min=1)).cpu().numpy()
        else:
            progress_B = state.step_B / np.maximum(part.steps_B - 1, 1)
        blind = sampler.score is None
        turn = _Turn(part, view, np.minimum(progress_B, 1.0))
        return replace(turn, move=turn.decided()) if blind else turn

    def _queries(self, state: State, turn: "_Turn") -> list[Query]:
        """The tokens to be scored, those that may end a span apart from those that may not."""
        if turn.move is not None:
            wanted_BL = turn.move.reveal_BL
        elif turn.part.settings.sampler.rescores:
            wanted_BL = turn.part.mine_BL & turn.view.on_device(turn.going)[:, None]
        else:
            wanted_BL = turn.view.masked_BL
        ends_BL, v = state.ends_BL, self.vocabulary
        return queries(state.canvas, wanted_BL & ~ends_BL, v, ends=False) + queries(
            state.canvas, wanted_BL & ends_BL, v
        )

    def _draw(
        self,
        canvas: Canvas,
        turn: "_Turn",
        query: Query,
        logits_NA: Tensor,
        uniform_BL: Tensor,
        drawn_BL: Tensor,
        score_BL: Tensor,
    ) -> None:
        """Draw one id for every queried token that is masked, and note the score of all."""
        settings, sampler = turn.part.settings, turn.part.settings.sampler
        index_N, logits_NA = query.index_N[: query.count], logits_NA[: query.count]
        row_N = index_N.div(canvas.shape[1], rounding_mode="floor")
        if settings.repetition > 1:
            present_BA = self._present(canvas, query.alphabet)[:, : logits_NA.shape[1]]
            logits_NA = repeated(logits_NA, row_N, present_BA, settings.repetition)
        values_B = at(settings.temperature, turn.progress_B)
        even = (values_B == values_B[0]).all()
        temperature = float(values_B[0]) if even else turn.view.on_device(values_B).to(logits_NA.dtype)[row_N]
        score, held_N = None if turn.move else sampler.score, None
        if sampler.rescores:
            held_N = canvas.ids_BL.view(-1)[index_N]
            column_N = columns(held_N, self.vocabulary.alphabets[query.alphabet]).clamp(0, logits_NA.shape[1] - 1)
            held_N = torch.where(held_N == self.vocabulary.mask, -1, column_N)
        column_N, score_N = draw(logits_NA, uniform_BL.view(-1)[index_N], settings, temperature, score, held_N)
        drawn_BL.view(-1)[index_N] = self._ids[query.alphabet].to(index_N.device)[column_N]
        if score_N is not None:
            score_BL.view(-1)[index_N] = score_N

    def _present(self, canvas: Canvas, alphabet: int) -> Bool[Tensor, "B A"]:
        """Which codes of an alphabet each row holds; END and FILL may come again."""
        row = self.vocabulary.alphabets[alphabet]
        held_BL = (canvas.alphabet_BL == alphabet) & (canvas.ids_BL != self.vocabulary.mask)
        column_BL = torch.where(held_BL, canvas.ids_BL - row.start, row.codes).clamp(max=row.codes)
        present_BA = torch.zeros(len(held_BL), row.codes + 2, dtype=torch.bool, device=held_BL.device)
        present_BA.scatter_(1, column_BL, True)
        present_BA[:, row.codes] = False
        return present_BA

    def _lookup(self, table: Tensor, canvas: Canvas) -> Tensor:
        return table.to(canvas.ids_BL.device)[canvas.alphabet_BL]


@dataclass(frozen=True)
class _Turn:
    """A part at one step; `move` is there before the model is asked where the sampler does not need to know."""

    part: Part
    view: View
    progress_B: np.ndarray
    move: Move | None = None

    @property
    def going(self) -> np.ndarray:
        """bool (B,): rows whose sampler has steps left."""
        return self.view.step_B < self.part.steps_B

    @property
    def guidance(self) -> np.ndarray:
        """w of each row."""
        return at(self.part.settings.guidance, self.progress_B)

    def decided(self, score_BL: Tensor | None = None) -> Move:
        """The sampler's move, which at a row's last step reveals all that is left."""
        if self.move is not None:
            return self.move
        view = replace(self.view, score_BL=score_BL)
        move, rest_B = self.part.settings.sampler.move(view), self.part.steps_B - self.view.step_B
        last_B1, going_B1 = view.on_device(rest_B == 1)[:, None], view.on_device(rest_B > 0)[:, None]
        reveal_BL = (move.reveal_BL | last_B1) & view.masked_BL & going_B1
        return Move(reveal_BL, None if move.hide_BL is None else move.hide_BL & ~last_B1 & going_B1)


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


def sample(
    engine: Engine,
    canvas: Canvas,
    settings: Mapping[str, Settings] | Sequence[Mapping[str, Settings]],
    seed: int = 0,
    keys: Sequence[KeyPart] | None = None,
    ends_BL: Tensor | None = None,
    negative: Canvas | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Canvas:
    """Fill every masked target of a canvas; the arguments are those of `Engine.start`.

    The same seed and key give the same row, whatever else is in the batch (same machine, dtype,
    thread count and row length).
    """
    final = canvas
    for progress in steps(engine, canvas, settings, seed, keys, ends_BL, negative):
        final = progress.canvas
        if on_step:
            on_step(progress)
    return final


def steps(
    engine: Engine,
    canvas: Canvas,
    settings: Mapping[str, Settings] | Sequence[Mapping[str, Settings]],
    seed: int = 0,
    keys: Sequence[KeyPart] | None = None,
    ends_BL: Tensor | None = None,
    negative: Canvas | None = None,
) -> Iterator[Progress]:
    """What `sample` goes through, after each step. Rows that are finished leave the batch."""
    state = engine.start(canvas, settings, seed, keys, ends_BL, negative)
    ids_BL, row_B, longest = state.canvas.ids_BL, np.arange(canvas.shape[0]), int(state.limit.max())
    if not longest:
        # Every target turned out to be empty.
        yield Progress(canvas.with_ids(ids_BL), 0, 0)
    for step in range(longest):
        state = engine.step(state)
        ids_BL = ids_BL.index_copy(0, torch.from_numpy(row_B).to(ids_BL.device), state.canvas.ids_BL)
        yield Progress(canvas.with_ids(ids_BL), step + 1, longest)
        going_B = ~engine.finished(state)
        if not going_B.any():
            break
        if not going_B.all():
            row_B, state = row_B[going_B], state.rows(going_B.nonzero()[0])

"""The sampling engine: masked tokens of any canvas are drawn, and samplers decide which and when.

Text, pictures and sound, generation, infilling and editing are all this one loop. A model takes no time as an input, so
rows at different steps, of different tasks, with different settings share one forward pass. A row's draws depend on
(seed, row key, step, token) alone, so its result does not depend on its batch.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from trimask.core.canvas import Canvas, Query, Span, queries
from trimask.core.errors import UsageError
from trimask.core.modality import Vocabulary
from trimask.core.rng import Part as KeyPart
from trimask.core.rng import generator, row_key, uniforms
from trimask.diffusion.caching import Bound, Cache, Recall, remembering, targets
from trimask.diffusion.denoiser import Denoiser
from trimask.diffusion.drawing import draw
from trimask.diffusion.guidance import against, conditioned, guided
from trimask.diffusion.objective import columns
from trimask.diffusion.samplers import Blockwise, Move, View
from trimask.diffusion.samplers.base import DRAWN
from trimask.diffusion.settings import Course, Settings, at
from trimask.diffusion.state import Part, State, timetable, units


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
        to fill, settings of a modality are missing, or guidance is to be away from two things. A causal model fills one
        segment of a row, from left to right, and ends it where it comes to the end.
        """
        count = canvas.shape[0]
        keys = range(count) if keys is None else keys
        of_row = [settings] * count if isinstance(settings, Mapping) else list(settings)
        ends_BL = torch.ones_like(canvas.maskable_BL) if ends_BL is None else ends_BL
        if not len(of_row) == len(keys) == count:
            raise UsageError(f"{count} rows, {len(of_row)} settings and {len(keys)} keys: each row has its own of both")
        if not bool(to_fill(canvas, self.vocabulary).any()):
            raise UsageError("the canvas has nothing to fill: no target token is masked")
        self._check(canvas, of_row)
        if negative is not None and self.weaker is not None:
            raise UsageError("guidance is away from a weaker model or from a negative condition, not from both")
        other = None if negative is None else against(canvas, negative)
        if self.vocabulary.causal:
            self._check_order(canvas, of_row)
        else:
            canvas, ends_BL = self._with_lengths(canvas, of_row, ends_BL, seed, keys)
        key_B = torch.tensor([row_key("sample", seed, k) for k in keys], device=canvas.ids_BL.device)
        level_BL = self._lookup(self._level, canvas)
        parts = self._parts(canvas, of_row, level_BL)
        bare = replace(canvas, spans=())
        state = State(bare, key_B, np.zeros(count, np.int64), parts, level_BL, ends_BL, other)
        return replace(state, recall=self._recall(state)) if state.cached.any() else state

    def _recall(self, state: State) -> Recall:
        """Room for what is remembered: of null conditions too where guidance by the same model asks for them."""
        canvas, count = state.canvas, state.canvas.shape[0]
        guided = any(part.settings.guided for part in state.parts)
        copies = 2 if guided and self.weaker is None else 1
        weaker = None if self.weaker is None else remembering(self.weaker).memory(canvas, count)
        return Recall(remembering(self.denoiser).memory(canvas, copies * count), weaker, canvas.ids_BL)

    def _check(self, canvas: Canvas, of_row: Sequence[Mapping[str, Settings]]) -> None:
        modality_BL = self._lookup(self._modality, canvas).masked_fill(~to_fill(canvas, self.vocabulary), -1)
        for row, present in enumerate(modality_BL.tolist()):
            for m in {*present} - {-1}:
                name = self.vocabulary.modalities[m].name
                if name not in of_row[row]:
                    raise UsageError(f"no sampling settings for modality {name!r}")

    def _check_order(self, canvas: Canvas, of_row: Sequence[Mapping[str, Settings]]) -> None:
        """What a causal model says of a token holds where all before it are known."""
        filled: dict[int, str] = {}
        todo_BL = to_fill(canvas, self.vocabulary)
        for span in canvas.spans:
            if not todo_BL[span.row, span.start : span.start + span.length].any():
                continue
            if span.row in filled:
                raise UsageError(
                    f"row {span.row}: a causal model fills one segment after the other; first fill "
                    f"{filled[span.row]}, then give it and fill {span.kind}"
                )
            filled[span.row] = span.kind
            sampler = of_row[span.row][self.vocabulary.modalities[self.vocabulary.modality(span.kind)].name].sampler
            if not (isinstance(sampler, Blockwise) and sampler.block == 1 and not sampler.steps):
                raise UsageError(
                    "a causal model fills one position after the other: sample with blockwise:block=1, without steps"
                )

    def _parts(self, canvas: Canvas, of_row: Sequence[Mapping[str, Settings]], level_BL: Tensor) -> tuple[Part, ...]:
        """What is to be filled, by modality and settings, and when."""
        todo_BL, modality_BL = to_fill(canvas, self.vocabulary), self._lookup(self._modality, canvas)
        unit_BL, last = units(canvas), canvas.shape[1]
        parts = []
        for m, row in enumerate(self.vocabulary.modalities):
            own_BL = todo_BL & (modality_BL == m)
            from_first_BL = unit_BL - unit_BL.masked_fill(~own_BL, last).amin(1, keepdim=True)
            for settings in dict.fromkeys(s[row.name] for s in of_row if row.name in s):
                rows_B = torch.tensor([s.get(row.name) == settings for s in of_row], device=own_BL.device)
                mine_BL = (own_BL & rows_B[:, None]).cpu().numpy()
                if mine_BL.any():
                    phases = timetable(settings.sampler, mine_BL, from_first_BL.cpu().numpy(), level_BL.cpu().numpy())
                    phase_BL, total_BK = (torch.from_numpy(a).to(own_BL.device) for a in phases[:2])
                    parts.append(Part(m, settings, phase_BL, total_BK, phases[2]))
        return tuple(part.among(parts) for part in parts)

    def _with_lengths(
        self,
        canvas: Canvas,
        of_row: Sequence[Mapping[str, Settings]],
        ends_BL: Tensor,
        seed: int,
        keys: Sequence[KeyPart],
    ) -> tuple[Canvas, Tensor]:
        """Draw where each free span ends, before anything in it: END there and FILL behind it.

        Of a span that is masked from some unit on, whatever is given before, the probabilities of END at its masked
        units are the law of its length, so this is exact for an exact model. Token by token, one wrong code far behind
        would make a long span of a short one. One evaluation for every free span of the fullest row; guidance does not
        act on lengths. What is before the end can be neither END nor FILL any more.
        """
        v, ends_BL = self.vocabulary, ends_BL.clone()
        for turn in range(canvas.shape[1]):
            ids_BL = canvas.ids_BL
            spans = {s.row: s for s in reversed(canvas.spans) if s.free and self._open(ids_BL, s) is not None}
            if not spans:
                break
            log_p_BL = torch.full(canvas.shape, -torch.inf, device=ids_BL.device)
            first_BL = torch.zeros_like(canvas.maskable_BL)
            for span in spans.values():
                first_BL[span.row, _first_tokens(span)] = True
            first_BL &= ids_BL == v.mask
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
                log_p_1U = log_p_BL[row, _first_tokens(span)][None].clone()
                if not first_BL[row, _first_tokens(span)].any():
                    raise UsageError(f"the free {span.kind} span of row {row} has no token that may end it (ends_BL)")
                end = int(draw(log_p_1U, noise_1, own, float(at(own.temperature, np.zeros(1))[0]))[0])
                here = slice(span.start, span.start + span.length)
                laid = ids_BL[row, here].view(span.shape[0], -1)
                laid[end], laid[end + 1 :] = alphabet.end, alphabet.fill
                ends_BL[row, here] = False
            canvas = canvas.with_ids(ids_BL)
        return canvas, ends_BL

    def _open(self, ids_BL: Tensor, span: Span) -> int | None:
        """The unit from which on a span is masked, where nothing before it is; None where nothing is, or holes are."""
        masked_UX = (
            ids_BL[span.row, span.start : span.start + span.length].view(span.shape[0], -1) == self.vocabulary.mask
        )
        whole_U = masked_UX.all(1)
        known = int((~masked_UX.any(1)).sum())
        return known if known < len(whole_U) and bool(whole_U[known:].all()) else None

    @torch.inference_mode()
    def step(self, state: State) -> State:
        """One step of every row that is not finished: at most one evaluation of the model for all of them.

        Samplers whose order does not depend on the model choose first, and only what they reveal is scored. Raises
        `UsageError` for logits that are not finite.
        """
        cached_B = state.cached
        if cached_B.any() and not cached_B.all():
            return self._apart(state, cached_B)
        canvas, home, recall = state.canvas, state.canvas.ids_BL.device, state.recall
        turns = [self._turn(state, part) for part in state.parts]
        asked = [(turn, query) for turn in turns for query in self._queries(state, turn)]
        drawn_BL, score_BL = canvas.ids_BL.clone(), torch.full(canvas.shape, -torch.inf, device=home)
        if asked:
            scale, queried = [turn.guidance for turn, _ in asked], [query for _, query in asked]
            model, weaker = self.denoiser, self.weaker
            if weaker is None and state.negative is None and any(w_B.any() for w_B in scale):
                # Without a condition there is nothing to go away from.
                given_B = conditioned(canvas, self.vocabulary)
                scale = [np.where(given_B, w_B, 0.0) for w_B in scale]
            if recall is not None:
                guided_B = np.any([w_B != 0 for w_B in scale], axis=0)
                model, weaker, recall = self._remembering(state, recall, turns, guided_B)
            every_row = recall is not None
            logits = guided(model, canvas, queried, scale, self.vocabulary, state.negative, weaker, every_row)
            step_B1 = torch.from_numpy(state.step_B).to(home)[:, None]
            column_L = torch.arange(canvas.shape[1], device=home)
            uniform_BL = uniforms(state.key_B[:, None], DRAWN, step_B1, column_L)
            for (turn, query), logits_NA in zip(asked, logits, strict=True):
                self._draw(canvas, turn, query, logits_NA, uniform_BL, drawn_BL, score_BL)
        ids_BL = canvas.ids_BL
        for turn in turns:
            move = turn.decided(score_BL)
            ids_BL = torch.where(move.reveal_BL, drawn_BL, ids_BL)
            if move.hide_BL is not None:
                ids_BL = ids_BL.masked_fill(move.hide_BL, self.vocabulary.mask)
        return replace(state, canvas=canvas.with_ids(ids_BL), step_B=state.step_B + 1, recall=recall)

    def _apart(self, state: State, some_B: np.ndarray) -> State:
        """A step of some of the rows, and one of the others."""
        numbers = [np.flatnonzero(some_B), np.flatnonzero(~some_B)]
        one, other = (self.step(state.rows(n)) for n in numbers)
        return one.below(other).rows(np.argsort(np.concatenate(numbers)))

    def _remembering(
        self, state: State, recall: Recall, turns: Sequence["_Turn"], guided_B: np.ndarray
    ) -> tuple[Denoiser, Denoiser | None, Recall]:
        """The models bound to what they remember and to what they compute now; the memory of the next state."""
        recall.unspent()
        needs = [turn.computed(state, recall, turn.part.settings.cache) for turn in turns if turn.part.settings.cache]
        tokens_BL, targets_B1, whole_B1 = (torch.stack(part).any(0) for part in zip(*needs, strict=True))
        # Of rows of which nothing is asked nothing is computed.
        live_B1 = torch.stack([turn.asked_BL for turn in turns]).any(0).any(1, keepdim=True)
        whole_B1 = whole_B1 & live_B1
        wanted_BL = (tokens_BL | (targets(state.canvas) & targets_B1) | whole_B1) & live_B1
        null_BL = wanted_BL
        if (other := state.negative) is not None:
            null_BL = (other.marked(tokens_BL) | (targets(other.canvas) & targets_B1) | whole_B1) & live_B1
        null_BL = null_BL & torch.from_numpy(guided_B).to(null_BL.device)[:, None]
        model = Bound(remembering(self.denoiser), recall.memory, torch.cat([wanted_BL, null_BL]))
        weaker = None
        if self.weaker is not None and recall.weaker is not None:
            weaker = Bound(remembering(self.weaker), recall.weaker, null_BL)
        return model, weaker, recall.passed_on(torch.where(whole_B1, state.canvas.ids_BL, recall.whole_BL))

    def finished(self, state: State) -> np.ndarray:
        """bool (B,): rows that need no further step."""
        done_B = np.ones(len(state.step_B), bool)
        for part in state.parts:
            own_B = state.step_B >= part.steps
            if part.rule.adaptive and not part.rule.remasks:
                masked_BL = (part.phase_BL >= 0) & (state.canvas.ids_BL == self.vocabulary.mask)
                own_B = own_B | ~masked_BL.any(1).cpu().numpy()
            done_B &= own_B
        return done_B

    def _turn(self, state: State, part: Part) -> "_Turn":
        """What the part's sampler sees, and where it does not ask for a score its move."""
        mine_BL = part.phase_BL >= 0
        masked_BL = mine_BL & (state.canvas.ids_BL == self.vocabulary.mask)
        filled_BL, step_B, phases = mine_BL & ~masked_BL, state.step_B, part.total_BK.shape[1]
        going_B = step_B < part.steps
        if part.rule.adaptive:
            # On to the next phase when the present one is full.
            now_B = part.phase_BL.masked_fill(~masked_BL, phases - 1).amin(1)
            within_B, steps_B = step_B, part.steps
            progress_B = (filled_BL.sum(1) / mine_BL.sum(1).clamp(min=1)).cpu().numpy()
        else:
            number_B = np.minimum((part.begins_BK[:, 1:] <= step_B[:, None]).sum(1), phases - 1)
            begin_B, end_B = (np.take_along_axis(part.begins_BK, n[:, None], 1)[:, 0] for n in (number_B, number_B + 1))
            now_B, within_B, steps_B = (
                torch.from_numpy(number_B).to(masked_BL.device),
                step_B - begin_B,
                end_B - begin_B,
            )
            progress_B = np.minimum(step_B / np.maximum(part.steps - 1, 1), 1.0)
        here_BL = (part.phase_BL == now_B[:, None]) & torch.from_numpy(going_B).to(masked_BL.device)[:, None]
        total_B = part.total_BK.gather(1, now_B[:, None]).squeeze(1)
        mask_BL, filled_BL = masked_BL & here_BL, filled_BL & here_BL
        alike_BL = mask_BL
        if part.settings.sampler.together:
            alike = [p.phase_BL >= 0 for p in state.parts if p.settings.sampler == part.settings.sampler]
            alike_BL = torch.stack(alike).any(0) & (state.canvas.ids_BL == self.vocabulary.mask)
        view = View(mask_BL, filled_BL, alike_BL, state.level_BL, state.key_B, step_B, within_B, steps_B, total_B)
        asked_BL = view.masked_BL | view.filled_BL if part.rule.rescores else view.masked_BL
        turn = _Turn(part, view, progress_B, asked_BL, now_B, here_BL)
        if part.rule.score is not None:
            return turn
        move = turn.decided()
        return replace(turn, move=move, asked_BL=move.reveal_BL)

    def _queries(self, state: State, turn: "_Turn") -> list[Query]:
        """The tokens to be scored, those that may end a span apart from those that may not."""
        canvas, wanted_BL, ends_BL = state.canvas, turn.asked_BL, state.ends_BL
        return [
            *queries(canvas, wanted_BL & ~ends_BL, self.vocabulary, ends=False),
            *queries(canvas, wanted_BL & ends_BL, self.vocabulary),
        ]

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
        settings, rule = turn.part.settings, turn.part.rule
        index_N, logits_NA = query.index_N[: query.count], logits_NA[: query.count]
        row_N = index_N.div(canvas.shape[1], rounding_mode="floor")
        held_N = None
        if rule.rescores:
            ids_N = canvas.ids_BL.view(-1)[index_N]
            column_N = columns(ids_N, self.vocabulary.alphabets[query.alphabet]).clamp(0, logits_NA.shape[1] - 1)
            held_N = torch.where(ids_N == self.vocabulary.mask, -1, column_N)
        if settings.repetition > 1:
            present_NA = self._present(canvas, query.alphabet)[row_N, : logits_NA.shape[1]]
            # A token that is there is no repetition of itself.
            again_NA = present_NA if held_N is None else present_NA & (held_N < 0)[:, None]
            logits_NA = logits_NA - math.log(settings.repetition) * again_NA
        temperature = settings.temperature
        if isinstance(temperature, Course):
            temperature = turn.view.on_device(temperature.at(turn.progress_B)).to(logits_NA.dtype)[row_N]
        score, uniform_N = None if turn.move else rule.score, uniform_BL.view(-1)[index_N]
        column_N, score_N = draw(logits_NA, uniform_N, settings, temperature, score, held_N)
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
    asked_BL: Tensor
    """bool: tokens that are scored."""
    phase_B: Tensor
    """int64: the phase that each row is in."""
    here_BL: Tensor
    """bool: its tokens."""
    move: Move | None = None

    @property
    def guidance(self) -> np.ndarray:
        """w of each row, 0 of rows of which nothing is asked."""
        return np.where(self.asked_BL.any(1).cpu().numpy(), at(self.part.settings.guidance, self.progress_B), 0.0)

    def computed(self, state: State, recall: Recall, cache: Cache) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens that are computed, bool (B, L); rows of which all targets are, or all positions, bool (B, 1)."""
        mine_BL, ids_BL = self.part.phase_BL >= 0, state.canvas.ids_BL
        mine_B1, tokens_BL = mine_BL.any(1, keepdim=True), self.asked_BL
        if cache.scope == "block":
            tokens_BL = tokens_BL | self.here_BL
        elif cache.scope == "suffix":
            tokens_BL = tokens_BL | (mine_BL & (self.part.phase_BL >= self.phase_B[:, None]))
        changed_B1 = (mine_BL & (ids_BL != recall.whole_BL)).sum(1, keepdim=True)
        whole_B1 = changed_B1 > cache.after * mine_BL.sum(1, keepdim=True)
        if cache.by_phase:
            whole_B1 = whole_B1 | (self.here_BL.any(1, keepdim=True) & ~self.view.filled_BL.any(1, keepdim=True))
        if cache.every:
            whole_B1 = whole_B1 | self.view.on_device(state.step_B % cache.every == 0)[:, None]
        return tokens_BL, mine_B1 & (cache.scope == "target"), whole_B1 & mine_B1

    def decided(self, score_BL: Tensor | None = None) -> Move:
        """The sampler's move; at the last step of a phase all that is left of it is revealed."""
        if self.move is not None:
            return self.move
        view = replace(self.view, score_BL=score_BL)
        move = self.part.rule.move(view)
        last_B = view.step_B + 1 >= view.steps_B
        if self.part.rule.adaptive:
            last_B = view.row_step_B + 1 >= self.part.steps
        last_B1 = view.on_device(last_B)[:, None]
        reveal_BL = (move.reveal_BL | last_B1) & view.masked_BL
        return Move(reveal_BL, None if move.hide_BL is None else move.hide_BL & view.filled_BL & ~last_B1)


def _first_tokens(span: Span) -> slice:
    """The first level's token of each of a span's units."""
    return slice(span.start, span.start + span.length, span.length // span.shape[0])


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

    The same seed and key give the same row, whatever else is in the batch: in fp32 on the CPU bit for bit (same
    machine, thread count and row length); docs/concepts.md says what holds elsewhere.
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
        # Every target turned out to be empty: its length is drawn.
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

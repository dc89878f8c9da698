"""The training stream: prepared sets, mixed, packed into rows and masked.

    shards -> pieces -> shuffle -> repeat -> mix -> windows -> packed rows -> batches
    `------------------- Grain -------------------'

Everything is a function of the seed and a position, so the order does not depend on the number of
workers, and the state is the number of the window and of the row within it. Weights are shares of
transformer positions; Grain mixes items, so a source's chance is its weight over its mean length.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import chz
import numpy as np

from trimask.core.canvas import Composer, Draw, Row, Segment
from trimask.core.config import POSITIVE, check
from trimask.core.errors import DataError, UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.core.rng import generator, key
from trimask.core.running import end_with_parent
from trimask.data.durations import durations
from trimask.data.shards import Shard
from trimask.data.tasks import ANY, VOICE, Conditions, Parts, draw_row, feasible, needs
from trimask.diffusion.forward import Masked, corrupt

logging.getLogger("absl").setLevel(logging.ERROR)  # Grain warns on import that jax has no profiler here
import grain  # noqa: E402

WINDOW = 512
"""Items packed together: large enough to fill rows well, small enough to wait for."""
MEASURED = 256
"""Items that the mean length of a source is measured on."""
ITEM_OVERHEAD = 3
"""BOS, task and one opening token."""


@chz.chz
class SourceConfig:
    """One prepared set of the mixture."""

    path: str
    weight: float = chz.field(default=1.0, doc="share of transformer positions, relative to the other sources")
    max_epochs: float | None = chz.field(default=None, doc="do not repeat the set more often than this")
    tasks: tuple[str, ...] = chz.field(default=(), doc="tasks for this set; empty: all of the stream's")


@chz.chz
class StreamConfig:
    """Which data, in which proportions, laid out how."""

    sources: tuple[SourceConfig, ...]
    tasks: Mapping[str, float] = chz.field(
        default_factory=lambda: {
            "text": 1.0, "text>image": 1.0, "image>text": 1.0, "text>speech": 1.0, "speech>text": 1.0
        },
        doc="weight of each task among those an item allows",
    )  # fmt: skip
    conditions: Conditions = chz.field(default_factory=Conditions)
    rows: int = chz.field(default=32, doc="rows of a batch B, those of all processes")
    slots: int = chz.field(default=256, doc="transformer positions of a row P")
    tokens: int | None = chz.field(default=None, doc="tokens of a row L; larger than slots where levels are stacked")
    seed: int = 0
    anti_masking: bool = chz.field(default=False, doc="every item twice, with complementary masks")
    workers: int = chz.field(default=0, doc="processes that read and pack; 0: this one")

    @chz.validate
    def _check(self):
        if not self.sources:
            raise UsageError("data.sources is empty: name at least one prepared set")
        check(self, "data", POSITIVE, "rows", "slots", "tokens")
        for number, source in enumerate(self.sources):
            check(source, f"data.sources.{number}", POSITIVE, "weight", "max_epochs")


@dataclass(frozen=True)
class Batch:
    """A pass's worth of data, or a process's part of it, with what the run record wants to know about it."""

    masked: Masked
    tokens: dict[str, int]
    """Processed tokens per modality: conditions included, END counted, FILL and PAD not."""
    items: dict[str, int]
    """Items per source path, of the whole pass."""
    epochs: dict[str, float]
    """Furthest progress through each source in the whole pass, in epochs."""
    filled: float
    """Share of transformer positions that are not padding."""


Shapes = Mapping[str, tuple[int, ...]]
"""Kind -> grid shape of a part."""


class Pieces:
    """Random access to the items of one set; a long text is cut into pieces that fit a row.

    An item that fits a row under no task is left out (`left_out`); one that fits under some of its tasks
    only is used for those (`curtailed`); one whose parts make no task is not used (`taskless`).
    """

    def __init__(self, config: StreamConfig, source: SourceConfig, vocabulary: Vocabulary):
        self.config, self.source, self.vocabulary = config, source, vocabulary
        self.shard = Shard(source.path)
        self.name = self.shard.manifest.fingerprint[:16]
        self.weights = {n: config.tasks.get(n, 1.0) for n in source.tasks or config.tasks}
        self.composer = Composer(vocabulary, config.slots, config.tokens)
        self.text_piece = config.slots - ITEM_OVERHEAD - 1
        self.left_out = self.curtailed = self.taskless = 0
        self._by_shapes: dict[frozenset[tuple[str, tuple[int, ...]]], tuple[list[str], list[str]]] = {}
        self._check_tasks()
        self.index = [(i, j) for i in range(len(self.shard)) for j in range(self._pieces(self.shard.shape(i)))]
        if not self.index:
            raise DataError(
                f"{source.path}: no item fits a row of {config.slots} positions under the tasks "
                f"{', '.join(self.weights)}; raise data.slots and data.tokens, or prepare smaller items"
            )
        self.mean_slots = self._mean_slots()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> tuple[str, Parts]:
        i, j = self.index[index]
        item = self.shard[i]
        if not self._is_long_text({k: v.shape for k, v in item.parts.items()}):
            return item.key, item.parts
        piece = item.parts["text"][j * self.text_piece : (j + 1) * self.text_piece]
        return f"{item.key}#{j}", {"text": piece}

    def __repr__(self) -> str:
        return f"Pieces({self.shard!r}, {self.source!r})"

    def row(self, position: int, content: tuple[str, Parts]) -> Row:
        """The row of the item at `position` of this source's endless shuffled stream."""
        name, parts = content
        order, view = divmod(position, 2 if self.config.anti_masking else 1)
        draw = Draw(self.name, order // len(self), order, view)
        rng = generator("task", self.config.seed, draw.stream, draw.epoch, draw.order, name)
        _, options = self._options({k: v.shape for k, v in parts.items()})
        weight = np.array([self.weights[n] for n in options])
        chosen = options[rng.choice(len(options), p=weight / weight.sum())]
        segments = draw_row(chosen, parts, self.vocabulary, self.config.conditions, rng)
        return Row(self._trimmed(segments), name, draw)

    def notes(self) -> list[str]:
        """What of the set is not used, for people."""
        row = f"a row of {self.composer.slots} positions and {self.composer.tokens} tokens"
        more = "data.slots and data.tokens make rows longer"
        lines = []
        if self.taskless:
            lines.append(f"{self.source.path}: {self.taskless} items lack what {', '.join(self.weights)} need; unused")
        if self.left_out:
            lines.append(f"{self.source.path}: {self.left_out} items do not fit {row} and are left out; {more}")
        if self.curtailed:
            lines.append(f"{self.source.path}: {self.curtailed} items fit {row} under some of their tasks only; {more}")
        return lines

    def _check_tasks(self) -> None:
        kinds = dict.fromkeys(self.shard.manifest.kinds)
        if not feasible(list(self.weights), kinds):
            raise UsageError(
                f"{self.source.path} holds {', '.join(kinds)}: none of the tasks {', '.join(self.weights)} can be "
                "trained on it; name one with the source's tasks, for example data.sources.0.tasks=any"
            )

    def _mean_slots(self) -> float:
        """Positions of an average draw, over evenly spaced items: tasks and free spans included."""
        some = range(0, len(self), max(1, len(self) // MEASURED))
        return float(np.mean([self.composer.size(self.row(i, self[i]))[0] for i in some]))

    def _is_long_text(self, shapes: Shapes) -> bool:
        return set(shapes) == {"text"} and shapes["text"][0] > self.text_piece

    def _pieces(self, shapes: Shapes) -> int:
        if self._is_long_text(shapes) and "text" in self.weights:
            return -(-shapes["text"][0] // self.text_piece)
        possible, fitting = self._options(shapes)
        self.taskless += not possible
        self.left_out += bool(possible) and not fitting
        self.curtailed += 0 < len(fitting) < len(possible)
        return int(bool(fitting))

    def _options(self, shapes: Shapes) -> tuple[list[str], list[str]]:
        """The tasks that the item allows, and those of them that fit a row; many items have the same shapes."""
        known = frozenset(shapes.items())
        if known not in self._by_shapes:
            possible = feasible(list(self.weights), shapes)
            self._by_shapes[known] = possible, [n for n in possible if self._fits(n, shapes)]
        return self._by_shapes[known]

    def _fits(self, name: str, shapes: Shapes) -> bool:
        kinds = set(shapes) if name == ANY else needs(name) | ({VOICE} & set(shapes))
        part = {k: shapes[k] for k in kinds}
        slots, tokens = self._size(part, kinds)
        return slots <= self.composer.slots and tokens <= self.composer.tokens

    def _size(self, shapes: Shapes, ends: Collection[str]) -> tuple[int, int]:
        """Positions and tokens of an item whose kinds `ends` may be targets."""
        none = {k: np.broadcast_to(np.int32(0), s) for k, s in shapes.items()}
        return self.composer.size(Row(tuple(Segment(k, c, target=k in ends) for k, c in none.items())))

    def _trimmed(self, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
        """Give up a free span that would not fit the row: the exact length always does."""
        slots, tokens = self.composer.size(Row(segments))
        if slots <= self.composer.slots and tokens <= self.composer.tokens:
            return segments
        return tuple(Segment(s.kind, s.codes, s.target, None, s.hidden) for s in segments)


def pack(rows: Sequence[Row], composer: Composer, seed: int) -> list[list[Row]]:
    """First-fit decreasing into rows of the composer's size, in a seeded order of rows."""
    sizes = [composer.size(r) for r in rows]
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for i in sorted(range(len(rows)), key=lambda i: -sizes[i][0]):
        slots, tokens = sizes[i]
        for b, (left, rest) in enumerate(free):
            if slots <= left and tokens <= rest:
                bins[b].append(i)
                free[b] = (left - slots, rest - tokens)
                break
        else:
            bins.append([i])
            free.append((composer.slots - slots, composer.tokens - tokens))
    order = generator("pack", seed).permutation(len(bins))
    return [[rows[i] for i in bins[b]] for b in order]


class _Pack:
    """Grain transformation of a window: a list of rows to a list of packed rows."""

    def __init__(self, config: StreamConfig, composer: Composer):
        self.config, self.composer = config, composer

    def __call__(self, number: int, window: list[Row]) -> list[list[Row]]:
        return pack(window, self.composer, key("window", self.config.seed, number) & (2**63 - 1))


class Stream:
    """An endless iterator of batches with an exact, small state.

    `horizon` is the number of transformer positions of the whole run; it is what a repetition limit
    is measured against.
    """

    def __init__(self, config: StreamConfig, vocabulary: Vocabulary, horizon: int | None = None):
        if config.anti_masking and vocabulary.causal:
            raise UsageError("data.anti_masking=True needs masks, and a causal model has none: set it to False")
        self.config, self.vocabulary = config, vocabulary
        self.composer = Composer(vocabulary, config.slots, config.tokens)
        self.pieces = [Pieces(config, s, vocabulary) for s in config.sources]
        self.shares = shares(config, self.pieces, horizon)
        self.manifests = [p.shard.manifest for p in self.pieces]
        self.notes = [line for p in self.pieces for line in p.notes()]
        self._windows = self._dataset()
        self.share(0, 1)
        self.restore({"window": 0, "row": 0})

    def _dataset(self) -> grain.MapDataset:
        """Packed windows, by number."""
        streams = []
        for pieces in self.pieces:
            source = grain.MapDataset.source(pieces).seed(key("order", self.config.seed, pieces.name) % 2**31)
            endless = source.shuffle().repeat()
            if self.config.anti_masking:
                endless = _Doubled(endless)
            streams.append(endless.map_with_index(pieces.row))
        chance = [s / p.mean_slots for s, p in zip(self.shares, self.pieces, strict=True)]
        mixed = grain.MapDataset.mix(streams, weights=chance)
        return mixed.batch(WINDOW, batch_fn=list).map_with_index(_Pack(self.config, self.composer))

    def durations(self, modality: str) -> np.ndarray | None:
        """How long each code of a line lasts in what runs beside it, in frames; None where nothing does."""
        return durations([p.shard for p in self.pieces], self.shares, self.vocabulary, modality)

    def _from(self, window: int) -> Iterator[list[list[Row]]]:
        """Windows from a number on, read ahead by a thread or by worker processes."""
        later = self._windows[window:]
        if not self.config.workers:
            return iter(later.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
        plain = later.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        return iter(plain.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.config.workers), end_with_parent))

    def share(self, rank: int, size: int) -> None:
        """Compose and mask only the part of each batch that is for one of several processes.

        All of them read and pack every row, which costs little beside training on it, so the state is one for all.
        Raises `UsageError` where rows cannot be shared out evenly.
        """
        if self.config.rows % size:
            raise UsageError(
                f"data.rows={self.config.rows}, the rows of a pass, are not a multiple of {size} processes"
            )
        each = self.config.rows // size
        self._part = slice(rank * each, (rank + 1) * each)

    def state(self) -> dict:
        """Where the next batch starts."""
        return {"window": self._window, "row": self._row}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to a state that `state` returned, of a stream of the same configuration."""
        self._window, self._row = int(state["window"]), int(state["row"])
        self._iterator = self._from(self._window)
        self._rows: list[list[Row]] = []
        self._filled_to = -1

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch(self._take(self.config.rows))

    def _take(self, count: int) -> list[list[Row]]:
        taken: list[list[Row]] = []
        while len(taken) < count:
            if self._filled_to != self._window:
                self._rows, self._filled_to = next(self._iterator), self._window
            part = self._rows[self._row : self._row + count - len(taken)]
            taken += part
            self._row += len(part)
            if self._row == len(self._rows):
                self._window, self._row = self._window + 1, 0
        return taken

    def batch(self, rows: Sequence[Sequence[Row]]) -> Batch:
        """Compose, mask and count packed rows: of a process its part, but for items and epochs."""
        canvas = self.composer.compose(rows[self._part])
        masked = corrupt(canvas, self.vocabulary, self.config.seed)
        draws = [item.draw for row in rows for item in row]
        pieces = {p.name: p for p in self.pieces}
        epochs: dict[str, float] = {}
        for d in draws:
            path = pieces[d.stream].source.path
            epochs[path] = max(epochs.get(path, 0.0), (d.order + 1) / len(pieces[d.stream]))
        return Batch(
            masked,
            self._tokens(canvas),
            dict(Counter(pieces[d.stream].source.path for d in draws)),
            epochs,
            float((canvas.segment_BP >= 0).float().mean()),
        )

    def _tokens(self, canvas) -> dict[str, int]:
        v = self.vocabulary
        fills = np.array([a.fill for a in v.alphabets])
        alphabet, ids = canvas.alphabet_BL.numpy(), canvas.ids_BL.numpy()
        content = (alphabet >= 0) & (ids != fills[alphabet])
        modality = np.array([a.modality for a in v.alphabets])[alphabet[content]]
        counts = np.bincount(modality, minlength=len(v.modalities))
        return {m.name: int(c) for m, c in zip(v.modalities, counts, strict=True)}


class _Doubled(grain.MapDataset):
    """Every element twice in a row, for the two views of anti-masking."""

    def __init__(self, parent: grain.MapDataset):
        super().__init__(parent)

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index):
        return self._parent[index // 2]


def shares(config: StreamConfig, pieces: Sequence[Pieces], horizon: int | None) -> list[float]:
    """Share of positions of each source, with repetition limits met over `horizon` positions.

    A source that would be repeated too often gets the share its limit allows; the others share the
    rest by their weights.
    """
    limits = [
        np.inf if s.max_epochs is None else s.max_epochs * len(p) * p.mean_slots
        for s, p in zip(config.sources, pieces, strict=True)
    ]
    if horizon is None:
        if np.isfinite(limits).any():
            raise UsageError("max_epochs needs a budget in tokens or steps, so that the repetitions can be counted")
        horizon = 1
    weights = np.array([s.weight for s in config.sources])
    limit = np.array(limits) / horizon
    share = np.zeros(len(weights))
    open_ = np.ones(len(weights), bool)
    while open_.any():
        rest = 1.0 - share[~open_].sum()
        share[open_] = rest * weights[open_] / weights[open_].sum()
        over = open_ & (share > limit)
        if not over.any():
            break
        share[over] = limit[over]
        open_ &= ~over
    if share.sum() < 1 - 1e-9:
        raise UsageError(
            "the repetition limits leave too little data: raise max_epochs or lower the budget "
            f"(the sources cover {share.sum():.0%} of it)"
        )
    return share.tolist()


def modality_table(rows: Mapping[str, Modality]) -> tuple[Modality, ...]:
    """The rows that a model of the given tokenizers needs, in the order text, image, audio, others."""
    order = {"text": 0, "image": 1, "audio": 2}
    return tuple(sorted(rows.values(), key=lambda m: (order.get(m.name, 3), m.name)))

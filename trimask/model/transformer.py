"""The network: canvas and queries in, logits out; and all of its initialisation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.core.canvas import Canvas, Query
from trimask.core.memory import Memory
from trimask.core.modality import Vocabulary
from trimask.model.block import Block, Freezable, Linear, RMSNorm, everywhere, frozen, rope_table
from trimask.model.config import ModelConfig
from trimask.model.recall import Fresh, stale
from trimask.model.timing import Timing


def attention_mask(segment_BP: Tensor, sees_BGG: Tensor, causal: bool = False) -> Tensor:
    """Boolean mask (B, 1, P, P): which position attends to which, from the segments' visibility.

    With `causal` to none behind itself. Padding attends to itself alone, so that no row of the softmax is empty.
    """
    inside_BP = segment_BP >= 0
    safe_BP = segment_BP.clamp(min=0)
    p = safe_BP.shape[1]
    rows_BPG = sees_BGG.gather(1, safe_BP[..., None].expand(-1, -1, sees_BGG.shape[2]))
    allowed_BPP = rows_BPG.gather(2, safe_BP[:, None].expand(-1, p, -1))
    allowed_BPP = allowed_BPP & inside_BP[:, :, None] & inside_BP[:, None]
    if causal:
        allowed_BPP = allowed_BPP.tril()
    own = torch.eye(p, dtype=torch.bool, device=safe_BP.device)
    return (allowed_BPP | own).unsqueeze(1)


class IdTable(Freezable):
    """A vector for every id (V, D). A code that is made of digits adds their vectors to its own.

    A code of finite scalar quantization is a number whose digits are the levels of its dimensions. Codes
    that share a digit look or sound alike, and what is learned of one serves the others.
    """

    def __init__(self, vocabulary: Vocabulary, width: int):
        super().__init__()
        has_VF = vocabulary.digits()
        codes = {row.start: row.start + row.codes for row in vocabulary.alphabets}
        edges = sorted({0, *codes, *codes.values(), vocabulary.size})
        self.ranges = [*pairwise(edges)]
        self.columns: list[slice] = []
        for number, (first, end) in enumerate(self.ranges):
            used = np.flatnonzero(has_VF[first:end].any(0))
            self.columns.append(slice(used[0], used[-1] + 1) if len(used) else slice(0))
            has = torch.from_numpy(has_VF[first:end, self.columns[-1]]).float()
            self.register_buffer(f"has_{number}", has, persistent=False)
        self.weight = nn.Parameter(torch.empty(vocabulary.size, width))
        self.digits = nn.Parameter(torch.empty(has_VF.shape[1], width))

    def pieces(self) -> dict[int, Tensor]:
        """The rows of each range of ids, by its first id: the codes of an alphabet, or what lies between.

        Take them once a forward pass: the gradient of one split is one concatenation, that of a slice
        is a table of zeros.
        """
        return self.once("pieces", self._pieces)

    def _pieces(self) -> dict[int, Tensor]:
        cut = self.weight.split([end - first for first, end in self.ranges])
        out = {}
        for number, ((first, _), columns, own) in enumerate(zip(self.ranges, self.columns, cut, strict=True)):
            has = self.get_buffer(f"has_{number}")
            out[first] = own + has @ self.digits[columns] if has.shape[1] else own
        return out

    def whole(self, pieces: Mapping[int, Tensor]) -> Tensor:
        """All rows, of their pieces."""
        return self.once("whole", lambda: torch.cat([*pieces.values()]))

    def forward(self) -> Tensor:
        return self.whole(self.pieces())


class PlaceTable(Freezable):
    """What the place of a code within its patch adds to its vector: a linear map of it, another for each place.

    The codes of a patch share their ids and are summed; without it nothing would say which one is where.
    """

    def __init__(self, vocabulary: Vocabulary, width: int):
        super().__init__()
        v = vocabulary
        self.mask = v.mask
        self.places = [(a, row) for a, row in enumerate(v.alphabets) if v.modalities[row.modality].patch > 1]
        self.maps = nn.ModuleDict({str(a): Linear(width, width) for a, _ in self.places})
        # A block of rows for each place: its codes, then MASK; one row of zeros, the last, for all other tokens.
        self.zero = sum(row.codes + 1 for _, row in self.places)
        begins, shift, hidden = 0, np.zeros(1 + len(v.alphabets), np.int64), np.full(1 + len(v.alphabets), self.zero)
        for a, row in self.places:
            shift[1 + a], hidden[1 + a] = begins - row.start, begins + row.codes
            begins += row.codes + 1
        self.register_buffer("shift", torch.from_numpy(shift), persistent=False)
        self.register_buffer("hidden", torch.from_numpy(hidden), persistent=False)
        self.shift: Tensor
        self.hidden: Tensor

    def forward(self, canvas: Canvas, pieces: Mapping[int, Tensor], dtype: torch.dtype) -> Tensor:
        """(B, L, D) of the tokens of a canvas, zero outside patches.

        `pieces` are those of the table of ids, `dtype` is that of the products.
        """
        rows = self.once(dtype, lambda: self._rows(pieces, dtype))
        ids_BL, alphabet_BL = canvas.ids_BL, canvas.alphabet_BL + 1
        hidden_BL = self.hidden[alphabet_BL]
        shown_BL = torch.where(hidden_BL < self.zero, ids_BL + self.shift[alphabet_BL], self.zero)
        return F.embedding(torch.where(ids_BL == self.mask, hidden_BL, shown_BL), rows)

    def _rows(self, pieces: Mapping[int, Tensor], dtype: torch.dtype) -> Tensor:
        last = max(pieces)
        hidden = pieces[last][self.mask - last : self.mask - last + 1]
        ids = {start: torch.cat([pieces[start], hidden]).to(dtype) for start in {row.start for _, row in self.places}}
        blocks = [self.maps[str(a)](ids[row.start]) for a, row in self.places]
        return torch.cat([*blocks, blocks[0].new_zeros(1, blocks[0].shape[1])]).float()


class Embedding(nn.Module):
    """Sum of the embeddings of id (and its digits), kind and alphabet; the tokens of one slot are summed."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        v = config.vocabulary
        self.stacked = config.stacked
        self.pad = v.pad
        self.token = IdTable(v, config.width)
        self.kind = nn.Embedding(1 + len(v.kinds), config.width)
        self.alphabet = nn.Embedding(1 + len(v.alphabets), config.width)
        self.place = PlaceTable(v, config.width)

    def forward(self, canvas: Canvas, dtype: torch.dtype = torch.float32) -> Tensor:
        """The residual stream's first value (B, P, D). `dtype` is that of the maps of places."""
        pieces = self.token.pieces()
        x_BLD = F.embedding(canvas.ids_BL, self.token.whole(pieces))
        x_BLD = x_BLD + self.kind(canvas.kind_BL) + self.alphabet(canvas.alphabet_BL + 1)
        if not self.stacked:
            return x_BLD
        b, p = canvas.segment_BP.shape
        if self.place.maps:
            x_BLD = x_BLD + self.place(canvas, pieces, dtype)
        x_BLD = x_BLD.masked_fill((canvas.ids_BL == self.pad)[..., None], 0.0)
        return x_BLD.new_zeros(b * p, x_BLD.shape[-1]).index_add(0, slots(canvas), x_BLD.flatten(0, 1)).view(b, p, -1)


def slots(canvas: Canvas) -> Tensor:
    """Flat index in B*P of the transformer position of each of the B*L tokens."""
    b, p = canvas.segment_BP.shape
    first = torch.arange(0, b * p, p, device=canvas.slot_BL.device)
    return (canvas.slot_BL + first[:, None]).flatten()


class Head(Freezable):
    """Output weights, applied to the queried positions and to their alphabet's ids only.

    Where levels are stacked, or the codes of a patch, one hidden vector predicts several codes: each level or
    place then has a linear map of its own before the shared output weights.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        v = config.vocabulary
        self.vocabulary: Vocabulary = v
        self.norm = RMSNorm(config.width)
        self.scale = config.logit_scale
        self.table = None if config.tied else IdTable(v, config.width)
        self.level = nn.ModuleDict(
            {
                str(a): Linear(config.width, config.width)
                for a, row in enumerate(v.alphabets)
                if v.modalities[row.modality].shares_positions
            }
        )

    def hidden(self, x_ND: Tensor, alphabet: int) -> Tensor:
        x_ND = self.norm(x_ND)
        return x_ND + self.level[str(alphabet)](x_ND) if str(alphabet) in self.level else x_ND

    def forward(
        self, x_ND: Sequence[Tensor], queries: Sequence[Query], joint: bool = False, tied: IdTable | None = None
    ) -> list[Tensor]:
        """Logits in fp32 of the vectors of each query: (N, A), column j belonging to `ids[j]` of its alphabet.

        With `joint` (N, V) over the whole joint vocabulary, for comparison. `tied` is the table of the embeddings,
        for a head without weights of its own.
        """
        table = self.table or tied
        assert table is not None
        pieces = table.pieces()
        dtype = x_ND[0].dtype if x_ND else torch.float32
        whole = [table.whole(pieces).to(dtype)] * len(queries) if joint else None
        tables = whole or [self._scored(pieces, q, dtype) for q in queries]
        return [
            self._scaled(F.linear(self.hidden(x, q.alphabet), table).float())
            for x, q, table in zip(x_ND, queries, tables, strict=True)
        ]

    def _scaled(self, logits_NA: Tensor) -> Tensor:
        return logits_NA if self.scale == 1.0 else self.scale * logits_NA

    def _scored(self, pieces: dict[int, Tensor], query: Query, dtype: torch.dtype) -> Tensor:
        """Rows of the codes of an alphabet and, where they can occur, of END and of FILL."""
        row = self.vocabulary.alphabets[query.alphabet]

        def make() -> Tensor:
            return (torch.cat([pieces[row.start], pieces[row.end][:2]]) if query.ends else pieces[row.start]).to(dtype)

        return self.once((row.start, query.ends, dtype), make)


class Transformer(nn.Module):
    """Masked-token predictor: a `diffusion.Denoiser`.

    Where the vocabulary is causal, a token is predicted at the position before its own, which sees what is before
    it alone: an autoregressive model, whose logits depend on no masked token as long as all before it are known.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config)
        rows = enumerate(config.vocabulary.modalities)
        self.timing = nn.ModuleDict({row.name: Timing(config.vocabulary, m) for m, row in rows if row.timed})
        self.dtype = torch.float32
        self.run_block = run_block
        initialise(self, seed)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.config.vocabulary

    def _coordinates(self, canvas: Canvas) -> Tensor:
        coords_BP2 = canvas.coords_BP2.float()
        for timing in self.timing.values():
            coords_BP2 = timing(canvas, coords_BP2)
        return coords_BP2

    def _rope(self, coords_BP2: Tensor) -> tuple[Tensor, Tensor]:
        return rope_table(coords_BP2, self.config.head_dim, self.config.rope_base, self.dtype)

    def hidden(self, canvas: Canvas, last: Fresh | None = None) -> Tensor:
        """Final residual stream (B, P, D) in the compute dtype; (N, D) where the last block computes some positions."""
        x_BPD = self.embedding(canvas, self.dtype).to(self.dtype)
        mask_B1PP = attention_mask(canvas.segment_BP, canvas.sees_BGG, self.vocabulary.causal)
        rope = self._rope(self._coordinates(canvas))
        *blocks, final = self.blocks
        for block in blocks:
            x_BPD = self.run_block(block, x_BPD, rope, mask_B1PP)
        if last is not None:
            return final(x_BPD, rope, last.attend, last.at_N)
        return self.run_block(final, x_BPD, rope, mask_B1PP)

    def forward(self, canvas: Canvas, queries: Sequence[Query], joint: bool = False) -> list[Tensor]:
        """Logits in fp32 of each query: (N, A) over its alphabet, or (N, V) with `joint`.

        Without gradients the last block computes only positions that are asked.
        """
        slot = self._predicting(canvas)
        at = [slot[q.index_N] for q in queries]
        if torch.is_grad_enabled() or not queries:
            x_XD = self.hidden(canvas).flatten(0, 1)
        else:
            asked_BP = torch.zeros_like(canvas.segment_BP, dtype=torch.bool)
            for slot_N in at:
                asked_BP.view(-1)[slot_N] = True
            fresh = Fresh.of(canvas, asked_BP, self.vocabulary.causal)
            x_XD, rank = self.hidden(canvas, fresh), fresh.rank_BP.flatten()
            at = [rank[slot_N] for slot_N in at]
        return self.head([x_XD[n] for n in at], queries, joint, self.embedding.token)

    def _predicting(self, canvas: Canvas) -> Tensor:
        """Flat index in B*P of the position at which each of the B*L tokens is predicted."""
        slot = slots(canvas)
        # Before every target there is the token that opens its segment.
        return (slot - 1).clamp(min=0) if self.vocabulary.causal else slot

    def memory(self, canvas: Canvas, rows: int) -> Memory:
        """A memory without content for so many rows of the canvas's lengths."""
        (length, slots), config = (canvas.shape[1], canvas.segment_BP.shape[1]), self.config
        shape = (config.depth, rows, slots, config.heads, config.head_dim)
        keys, values = (torch.zeros(shape, dtype=self.dtype, device=canvas.ids_BL.device) for _ in range(2))
        return Memory(keys, values, canvas.ids_BL.new_full((rows, length), -1))

    def recall(self, canvas: Canvas, queries: Sequence[Query], memory: Memory, wanted_BL: Tensor) -> list[Tensor]:
        """Logits as of `forward`, from an evaluation of some positions only (`stale`), which are remembered.

        Queries may be of wanted tokens (bool, (B, L)) alone. What other positions know of the canvas is as old as their
        last computation; where all that they see is as it was, the logits are those of `forward`.
        """
        stale_BP = stale(canvas, memory, wanted_BL, self.vocabulary.causal)
        fresh = Fresh.of(canvas, stale_BP, self.vocabulary.causal)
        x_ND = self.embedding(fresh.canvas(canvas, self.config.stacked), self.dtype)[0].to(self.dtype)
        coords_N2 = self._coordinates(canvas).flatten(0, 1)[fresh.at_N]
        cos, sin = self._rope(coords_N2[None])
        for number, block in enumerate(self.blocks):
            x_ND = block(x_ND, (cos[0], sin[0]), fresh.block(memory, number).attend)
        seen_BL = stale_BP.gather(1, canvas.slot_BL)
        memory.ids_BL.copy_(torch.where(seen_BL, canvas.ids_BL, memory.ids_BL))
        slot, rank = self._predicting(canvas), fresh.rank_BP.flatten()
        return self.head([x_ND[rank[slot[q.index_N]]] for q in queries], queries, False, self.embedding.token)

    def frozen(self) -> AbstractContextManager[None]:
        """Within it weights do not change and no gradient is taken: tables made of them are made once."""
        return frozen(self)

    def compiled(self, dynamic: bool | None = None) -> "Transformer":
        """Compile a block, once for all of them; `dynamic` for batches of many sizes.

        What computes some positions only stays eager: the last block without gradients, and evaluations with a memory.
        """
        self.run_block = torch.compile(run_block, dynamic=dynamic)
        return self

    @contextmanager
    def eager(self) -> Iterator[None]:
        """The blocks uncompiled, for batches of many shapes: each would be compiled anew."""
        before, self.run_block = self.run_block, run_block
        try:
            yield
        finally:
            self.run_block = before


def run_block(block: nn.Module, x_BPD: Tensor, rope: tuple[Tensor, Tensor], mask_B1PP: Tensor) -> Tensor:
    """A block of which all positions are computed."""
    return block(x_BPD, rope, everywhere(mask_B1PP))


def matrix_std(fan_in: int) -> float:
    """Standard deviation of a matrix at the start, but for embeddings and output weights."""
    return 0.5 * fan_in**-0.5


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """All initial weights, from one generator.

    | tensor | distribution |
    | --- | --- |
    | embeddings of tokens, digits, kinds and alphabets | N(0, embedding_std^2) |
    | output weights | N(0, (head_std / m_N)^2) |
    | matrices of a block, maps of places and levels | N(0, 1/(4 fan_in)) |
    | norm gains | 1 |

    `optim.parametrization` has the same as factors of the values at the base.

    Durations of timed codes start at the modality's pace; a run measures them on its data. A parameter that no
    rule covers is an error, so that none is forgotten.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    for name, p in model.named_parameters():
        if name.endswith("norm.weight"):
            p.fill_(1.0)
        elif name.startswith("head.table."):
            p.normal_(0.0, config.head_std / config.width_ratio, generator=generator)
        elif name.startswith("embedding.") and ".place." not in name:
            p.normal_(0.0, config.embedding_std, generator=generator)
        elif p.ndim == 2:
            p.normal_(0.0, matrix_std(p.shape[1]), generator=generator)
        else:
            raise AssertionError(f"no initialisation rule for {name}")

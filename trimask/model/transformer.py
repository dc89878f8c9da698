"""The network: canvas and queries in, logits out; and all of its initialisation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimask.core.canvas import Canvas, Query
from trimask.core.modality import Vocabulary
from trimask.model.block import Block, Linear, RMSNorm, rope_table
from trimask.model.config import ModelConfig


def attention_mask(segment_BP: Tensor, sees_BGG: Tensor) -> Tensor:
    """Boolean mask (B, 1, P, P): which position attends to which, from the segments' visibility.

    Padding attends to itself alone, so that no row of the softmax is empty.
    """
    inside_BP = segment_BP >= 0
    safe_BP = segment_BP.clamp(min=0)
    p = safe_BP.shape[1]
    rows_BPG = sees_BGG.gather(1, safe_BP[..., None].expand(-1, -1, sees_BGG.shape[2]))
    allowed_BPP = rows_BPG.gather(2, safe_BP[:, None].expand(-1, p, -1))
    allowed_BPP = allowed_BPP & inside_BP[:, :, None] & inside_BP[:, None]
    own = torch.eye(p, dtype=torch.bool, device=safe_BP.device)
    return (allowed_BPP | own).unsqueeze(1)


class Digits(nn.Module):
    """Vectors (V, D) to be added to a table of ids: the sum of those of an id's digits.

    A code of finite scalar quantization is a number whose digits are the levels of its dimensions. Codes
    that share a digit look or sound alike, and what is learned of one serves the others.
    """

    def __init__(self, vocabulary: Vocabulary, width: int):
        super().__init__()
        has_VF = torch.from_numpy(vocabulary.digits()).float()
        self.register_buffer("has_VF", has_VF, persistent=False)
        self.has_VF: Tensor
        self.weight = nn.Parameter(torch.empty(has_VF.shape[1], width))

    def forward(self, ids: slice = slice(None)) -> Tensor:
        """(V, D), or the rows of a range of ids."""
        return self.has_VF[ids] @ self.weight


class Embedding(nn.Module):
    """Sum of the embeddings of id (and its digits), kind and alphabet; the tokens of one slot are summed."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        v = config.vocabulary
        self.stacked = config.stacked
        self.pad = v.pad
        self.token = nn.Embedding(v.size, config.width)
        self.digits = Digits(v, config.width)
        self.kind = nn.Embedding(1 + len(v.kinds), config.width)
        self.alphabet = nn.Embedding(1 + len(v.alphabets), config.width)

    def forward(self, canvas: Canvas) -> Tensor:
        table_VD = self.token.weight + self.digits()
        x_BLD = F.embedding(canvas.ids_BL, table_VD) + self.kind(canvas.kind_BL) + self.alphabet(canvas.alphabet_BL + 1)
        if not self.stacked:
            return x_BLD
        b, p = canvas.segment_BP.shape
        x_BLD = x_BLD.masked_fill((canvas.ids_BL == self.pad)[..., None], 0.0)
        return x_BLD.new_zeros(b * p, x_BLD.shape[-1]).index_add(0, slots(canvas), x_BLD.flatten(0, 1)).view(b, p, -1)


def slots(canvas: Canvas) -> Tensor:
    """Flat index in B*P of the transformer position of each of the B*L tokens."""
    b, p = canvas.segment_BP.shape
    first = torch.arange(0, b * p, p, device=canvas.slot_BL.device)
    return (canvas.slot_BL + first[:, None]).flatten()


class Head(nn.Module):
    """Untied output weights, applied to the queried positions and to their alphabet's ids only.

    Where levels are stacked, one hidden vector predicts several codes: each level then has a linear
    map of its own before the shared output weights.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        v = config.vocabulary
        self.vocabulary: Vocabulary = v
        self.norm = RMSNorm(config.width)
        self.weight = nn.Parameter(torch.empty(v.size, config.width))
        self.digits = Digits(v, config.width)
        self.level = nn.ModuleDict(
            {
                str(a): Linear(config.width, config.width)
                for a, row in enumerate(v.alphabets)
                if v.modalities[row.modality].stack
            }
        )

    def hidden(self, x_ND: Tensor, alphabet: int) -> Tensor:
        x_ND = self.norm(x_ND)
        return x_ND + self.level[str(alphabet)](x_ND) if str(alphabet) in self.level else x_ND

    def restricted(self, x_ND: Tensor, alphabet: int) -> Tensor:
        """Logits (N, A) in fp32; column j belongs to id `alphabets[alphabet].ids[j]`."""
        row = self.vocabulary.alphabets[alphabet]
        ids = slice(row.start, row.start + row.codes)
        codes = self.weight[ids] + self.digits(ids)
        weight_AD = torch.cat([codes, self.weight[row.end : row.fill + 1]])
        return F.linear(self.hidden(x_ND, alphabet), weight_AD.to(x_ND.dtype)).float()

    def joint(self, x_ND: Tensor, alphabet: int) -> Tensor:
        """Logits (N, V) in fp32 over the whole joint vocabulary, for comparison."""
        return F.linear(self.hidden(x_ND, alphabet), (self.weight + self.digits()).to(x_ND.dtype)).float()


class Transformer(nn.Module):
    """Masked-token predictor: a `diffusion.Denoiser`."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config)
        self.dtype = torch.float32
        self.body = self._body
        initialise(self, seed)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.config.vocabulary

    def _body(self, x_BPD: Tensor, rope: tuple[Tensor, Tensor], mask_B1PP: Tensor) -> Tensor:
        for block in self.blocks:
            x_BPD = block(x_BPD, rope, mask_B1PP)
        return x_BPD

    def hidden(self, canvas: Canvas) -> Tensor:
        """Final residual stream (B, P, D) in the compute dtype."""
        x_BPD = self.embedding(canvas).to(self.dtype)
        rope = rope_table(canvas.coords_BP2, self.config.head_dim, self.config.rope_base, self.dtype)
        return self.body(x_BPD, rope, attention_mask(canvas.segment_BP, canvas.sees_BGG))

    def forward(self, canvas: Canvas, queries: Sequence[Query], joint: bool = False) -> list[Tensor]:
        """Logits in fp32 of each query: (N, A) over its alphabet, or (N, V) with `joint`."""
        x_BPD = self.hidden(canvas).flatten(0, 1)
        slot = slots(canvas)
        score = self.head.joint if joint else self.head.restricted
        return [score(x_BPD[slot[q.index_N]], q.alphabet) for q in queries]

    def compiled(self) -> "Transformer":
        """Compile the blocks (static shapes); embedding and head stay eager."""
        self.body = torch.compile(self._body)
        return self


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """All initial weights, from one generator.

    | tensor | distribution |
    | --- | --- |
    | embeddings of tokens, digits, kinds and alphabets; head | N(0, init_std^2) |
    | matrices of a block, level maps of the head | N(0, 1/(4 fan_in)) |
    | norm gains | 1 |

    A parameter that no rule covers is an error, so that none is forgotten.
    """
    generator = torch.Generator().manual_seed(seed)
    std = model.config.init_std
    for name, p in model.named_parameters():
        if name.endswith("norm.weight"):
            p.fill_(1.0)
        elif name.startswith("embedding.") or name in ("head.weight", "head.digits.weight"):
            p.normal_(0.0, std, generator=generator)
        elif p.ndim == 2:
            p.normal_(0.0, 0.5 * p.shape[1] ** -0.5, generator=generator)
        else:
            raise AssertionError(f"no initialisation rule for {name}")

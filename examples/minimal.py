"""The whole idea in one file: a tri-modal masked diffusion model of a toy world, in plain PyTorch.

A digit has a name (text), a picture (5x3 pixels in one of three colours) and a melody (six notes).
All three are tokens of one vocabulary in one row. One bidirectional transformer learns to fill in
masked tokens; sampling starts from masks and reveals a few tokens a step. Any part can be given:
name -> picture, picture -> name, name -> melody are the same model and the same loop.

    python examples/minimal.py            # about a minute on two cores
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
GLYPHS = [
    "###/# #/# #/# #/###", " # /## / # / # /###", "###/  #/###/#  /###", "###/  #/###/  #/###", "# #/# #/###/  #/  #",
    "###/#  /###/  #/###", "###/#  /###/# #/###", "###/  #/ # / # / # ", "###/# #/###/# #/###", "###/# #/###/  #/###",
]  # fmt: skip
COLOURS = ["red", "green", "blue"]

# One vocabulary: a contiguous range of ids per modality, then MASK.
LETTERS = "_abcdefghijklmnopqrstuvwxyz"  # "_" fills short names
TEXT = range(0, len(LETTERS))
IMAGE = range(TEXT.stop, TEXT.stop + 1 + len(COLOURS))  # paper, then the inks
AUDIO = range(IMAGE.stop, IMAGE.stop + 8)  # eight pitches
MASK = AUDIO.stop
VOCABULARY = MASK + 1

# One row: eleven letters ("r_seven"), fifteen pixels, six notes.
SPANS = {"text": slice(0, 11), "image": slice(11, 26), "audio": slice(26, 32)}
RANGES = {"text": TEXT, "image": IMAGE, "audio": AUDIO}
LENGTH = 32


def melody(digit: int) -> list[int]:
    """Six notes: the digit's own scale, up and down."""
    return [(digit * 3 + step * (1 + digit % 2)) % 8 for step in (0, 1, 2, 2, 1, 0)]


def make_row(digit: int, colour: int) -> Tensor:
    """Ids of one item of the world: (LENGTH,)."""
    text = [LETTERS.index(c) for c in f"{COLOURS[colour][0]}_{NAMES[digit]}".ljust(11, "_")]
    ink = IMAGE.start + 1 + colour
    image = [ink if c == "#" else IMAGE.start for c in GLYPHS[digit].replace("/", "")]
    audio = [AUDIO.start + note for note in melody(digit)]
    return torch.tensor(text + image + audio)


class Denoiser(nn.Module):
    """Logits of every position; a position can only be an id of its own modality."""

    def __init__(self, width: int = 64, depth: int = 3):
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)
        allowed = torch.full((LENGTH, VOCABULARY), -torch.inf)
        for name, span in SPANS.items():
            allowed[span, RANGES[name].start : RANGES[name].stop] = 0.0
        self.allowed: Tensor
        self.register_buffer("allowed", allowed)

    def forward(self, ids_BL: Tensor) -> Tensor:
        return self.head(self.body(self.token(ids_BL) + self.position)) + self.allowed


def mask(clean_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The forward process: hide each target token with probability t; targets are random modalities.

    Returns the masked ids, which tokens were maskable, and t: (B, L), (B, L), (B, 1).
    """
    rows = len(clean_BL)
    target = torch.rand(rows, len(SPANS)) < 0.5
    target[torch.arange(rows), torch.randint(len(SPANS), (rows,))] = True
    maskable_BL = torch.cat(
        [target[:, i : i + 1].expand(-1, s.stop - s.start) for i, s in enumerate(SPANS.values())], dim=1
    )
    # Stratified times: one in each of `rows` equal intervals of (0, 1].
    t_B1 = ((torch.randperm(rows) + 1 - torch.rand(rows)) / rows)[:, None]
    hidden_BL = maskable_BL & (torch.rand(clean_BL.shape) < t_B1)
    return clean_BL.masked_fill(hidden_BL, MASK), maskable_BL, t_B1


def negative_elbo(model: Denoiser, clean_BL: Tensor) -> Tensor:
    """(1/t) * cross-entropy of the masked tokens, per maskable token: a bound on -log p, in nats."""
    masked_BL, maskable_BL, t_B1 = mask(clean_BL)
    ce_BL = F.cross_entropy(model(masked_BL).transpose(1, 2), clean_BL, reduction="none")
    return (ce_BL * (masked_BL == MASK) / t_B1).sum() / maskable_BL.sum()


def train(steps: int, rows: int = 64, seed: int = 0) -> Denoiser:
    torch.manual_seed(seed)
    world = torch.stack([make_row(d, c) for d in range(10) for c in range(3)])
    model = Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(1, steps + 1):
        loss = negative_elbo(model, world[torch.randint(len(world), (rows,))])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(steps // 8, 1) == 0:
            print(f"step {step:5d}  negative ELBO {loss.item():.3f} nats per token")
    return model.eval()


@torch.inference_mode()
def fill(model: Denoiser, ids_BL: Tensor, steps: int = LENGTH) -> Tensor:
    """Fill every MASK: draw all of them, keep some in random order, so that a linear share is left.

    With one token a step this draws from the model's distribution exactly. Keeping the most confident
    tokens first needs fewer steps but favours easy rows: from nothing it mostly makes a single digit.
    """
    ids_BL = ids_BL.clone()
    total_B = (ids_BL == MASK).sum(1)
    for step in range(1, steps + 1):
        hidden_BL = ids_BL == MASK
        drawn_BL = torch.multinomial(model(ids_BL).softmax(-1).flatten(0, 1), 1).view_as(ids_BL)
        score_BL = torch.rand(ids_BL.shape).masked_fill(~hidden_BL, -1.0)
        left_B = total_B * (steps - step) // steps
        reveal_B = hidden_BL.sum(1) - left_B
        rank_BL = score_BL.argsort(1, descending=True).argsort(1)
        ids_BL = torch.where(hidden_BL & (rank_BL < reveal_B[:, None]), drawn_BL, ids_BL)
    return ids_BL


def show(row: Tensor) -> str:
    """A row as text, a picture of letters, and notes."""
    text = "".join(LETTERS[i] for i in row[SPANS["text"]]).strip("_")
    pixels = ["." if i == IMAGE.start else COLOURS[i - IMAGE.start - 1][0] for i in row[SPANS["image"]].tolist()]
    picture = "\n".join("   " + " ".join(pixels[3 * y : 3 * y + 3]) for y in range(5))
    notes = " ".join("CDEFGABc"[i - AUDIO.start] for i in row[SPANS["audio"]].tolist())
    return f"{text}\n{picture}\n   {notes}"


def accuracy(model: Denoiser, given: str, target: str) -> float:
    """Share of the 30 items whose `target` comes out right when only `given` is shown."""
    rows = torch.stack([make_row(d, c) for d in range(10) for c in range(3)])
    start = torch.full_like(rows, MASK)
    start[:, SPANS[given]] = rows[:, SPANS[given]]
    return float((fill(model, start)[:, SPANS[target]] == rows[:, SPANS[target]]).all(1).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and sample a toy tri-modal masked diffusion model.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = train(options.steps, seed=options.seed)
    for given, target in [("text", "image"), ("image", "text"), ("text", "audio"), ("image", "audio")]:
        print(f"{given} -> {target}: {accuracy(model, given, target):.0%} all right")
    print("two rows made from nothing:")
    for row in fill(model, torch.full((2, LENGTH), MASK)):
        print(show(row))


if __name__ == "__main__":
    main()

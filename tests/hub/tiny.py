"""A model of three modalities that is small enough to make in a moment: random weights, real tokenizers."""

from pathlib import Path

import chz
import numpy as np
import torch

from trimask.core.modality import Vocabulary
from trimask.data.stream import modality_table
from trimask.hub.bundle import save_bundle
from trimask.model.config import ModelConfig
from trimask.model.transformer import Transformer
from trimask.tokenizers.audio import AudioAutoencoder, AudioSettings, AudioTokenizer
from trimask.tokenizers.contract import Tokenizer
from trimask.tokenizers.image import ImageAutoencoder, ImageSettings, ImageTokenizer
from trimask.tokenizers.text import TextTokenizer

SENTENCES = ["a red circle above a blue square", "two green stars left of a red moon", "seven", "the end."] * 4
CONTEXT = 200
"""Positions of the rows that the model is said to have been trained on."""
BUCKETS = {"text": (8, 16, 24), "audio": (6, 12), "image": ()}
AUDIO = AudioSettings(levels=(4, 4), codebooks=2, bands=16, encoder_width=8, inner=8, decoder_width=8, iterations=2)
IMAGE = ImageSettings(levels=(4, 4), width=8, inner=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1))
MANIFEST = {"sources": [{"source": "world:scenes", "items": 3, "licence": "CC0-1.0"}]}


def weights(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in network.state_dict().items()}


def tokenizers() -> dict[str, Tokenizer]:
    torch.manual_seed(0)
    return {
        "text": TextTokenizer.train(SENTENCES, 280),
        "image": ImageTokenizer(IMAGE, weights(ImageAutoencoder(IMAGE))),
        "audio": AudioTokenizer(AUDIO, weights(AudioAutoencoder(AUDIO))),
    }


def network(of: dict[str, Tokenizer], stack: bool = False, seed: int = 1) -> Transformer:
    rows = {k: chz.replace(t.modality, buckets=BUCKETS[k]) for k, t in of.items()}
    rows["audio"] = chz.replace(rows["audio"], stack=stack)
    vocabulary = Vocabulary(modalities=modality_table(rows))
    # Large weights, so that a random model has opinions and nothing is decided by rounding.
    config = ModelConfig(vocabulary=vocabulary, depth=2, width=32, head_dim=16, base_width=32, head_std=0.5)
    return Transformer(config, seed)


def save(folder: Path) -> Path:
    """A bundle of the tiny model in a folder."""
    save_bundle(folder, network(tokenizers()), tokenizers(), [MANIFEST], {"step": 3, "config": {"data.slots": CONTEXT}})
    return folder

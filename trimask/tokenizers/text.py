"""Text tokenizer: byte-level BPE, through Hugging Face `tokenizers`.

Every string is a sequence of UTF-8 bytes and every byte has a code, so nothing is ever unknown and
the round trip is exact. There are no special tokens: BOS, END and the like belong to the canvas.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from trimask.core.errors import ArtifactError, UsageError
from trimask.core.modality import Modality
from trimask.tokenizers import artifact
from trimask.tokenizers.contract import Tokenizer

ENGINE = "bpe.json"
"""File of the artifact that holds the `tokenizers` serialisation."""

_PROBE = "Hello  world,\n\tDEF x_1 = 'é ü 你好 🙂';\x00 \ufeff e\u0301"


class TextTokenizer(Tokenizer[str]):
    """Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019).

    `quality` and `provenance` are what is written beside the tokenizer; they do not enter its
    fingerprint.
    """

    name = "bpe"

    def __init__(
        self,
        engine: HuggingFaceTokenizer,
        quality: Mapping[str, Mapping[str, float]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ):
        self.engine = engine
        self.quality, self.provenance = dict(quality or {}), dict(provenance or {})

    @classmethod
    def train(cls, texts: Iterable[str], codes: int, min_frequency: int = 2) -> "TextTokenizer":
        """Learn `codes` codes (256 bytes and the most frequent merges) from strings.

        Raises `UsageError` for fewer than 256 codes. With little text fewer codes may be found.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if codes < len(alphabet):
            raise UsageError(f"a byte-level tokenizer has at least {len(alphabet)} codes, got {codes}")
        engine = HuggingFaceTokenizer(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)  # pyright: ignore[reportAttributeAccessIssue]
        engine.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        trainer = trainers.BpeTrainer(
            vocab_size=codes, min_frequency=min_frequency, initial_alphabet=alphabet, show_progress=False
        )
        engine.train_from_iterator(texts, trainer)
        return cls(engine)

    @classmethod
    def from_file(cls, path: Path | str) -> "TextTokenizer":
        """Read any Hugging Face `tokenizer.json`; see `lossless` for whether it keeps every string."""
        try:
            engine = HuggingFaceTokenizer.from_file(str(path))
        except Exception as e:  # the library raises bare Exception for every cause
            raise ArtifactError(f"{path} cannot be read as a tokenizer.json: {e}") from None
        engine.no_padding()
        engine.no_truncation()
        return cls(engine, provenance={"file": Path(path).name})

    @classmethod
    def from_artifact(cls, folder: Path, manifest: Mapping[str, Any]) -> "TextTokenizer":
        """The tokenizer of an artifact folder whose manifest has been read."""
        out = cls.from_file(folder / ENGINE)
        out.quality, out.provenance = manifest.get("quality", {}), manifest.get("provenance", {})
        return out

    @property
    def codes(self) -> int:
        """Size of the vocabulary."""
        return self.engine.get_vocab_size(with_added_tokens=True)

    @property
    def modality(self) -> Modality:
        return Modality(name="text", grid="line", codes=self.codes)

    @cached_property
    def fingerprint(self) -> str:
        return artifact.fingerprint(self.name, self.engine.to_str())

    @cached_property
    def lossless(self) -> bool:
        """Whether decode(encode(x)) == x on a probe of spaces, controls, accents and emoji."""
        return self.decode(self.encode([_PROBE])) == [_PROBE]

    def encode(self, batch: Sequence[str]) -> list[np.ndarray]:
        """Codes (N,) of each string; the empty string has none.

        Raises `ValueError` for a string that has no UTF-8 form (a lone surrogate).
        """
        for text in batch:
            try:
                text.encode()
            except UnicodeEncodeError as e:
                raise ValueError(f"the text has no UTF-8 form: {e}; replace lone surrogates") from None
        found = self.engine.encode_batch(list(batch), add_special_tokens=False)
        return [np.asarray(one.ids, dtype=np.int32) for one in found]

    def decode(self, batch: Sequence[np.ndarray]) -> list[str]:
        """The string of each array of codes; bytes that are not UTF-8 become U+FFFD.

        Only codes that a string does not have (sampled ones) can form such bytes.
        """
        for ids in batch:
            if np.ndim(ids) != 1:
                raise ValueError(f"text codes have shape (N,), got {np.shape(ids)}")
            if len(ids) and not (np.min(ids) >= 0 and np.max(ids) < self.codes):
                raise ValueError(f"text codes lie in 0..{self.codes - 1}, got {np.min(ids)}..{np.max(ids)}")
        rows = [np.asarray(ids).tolist() for ids in batch]
        return self.engine.decode_batch(rows, skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        manifest = {
            "class": self.name,
            "settings": {"codes": self.codes},
            "fingerprint": self.fingerprint,
            "quality": self.quality,
            "provenance": self.provenance,
        }
        artifact.write(Path(folder), manifest, files={ENGINE: self.engine.to_str()})

import time

import numpy as np
import pytest
import torch

from tests.tokenizers.samples import SMALL_AUDIO, audio_tokenizer, tone
from trimask.core.item import Audio
from trimask.tokenizers.artifact import load
from trimask.tokenizers.audio import FRAME, AudioAutoencoder, AudioSettings


@pytest.mark.parametrize("samples, frames", [(1, 1), (640, 1), (641, 2), (16_000, 25)])
def test_25_frames_a_second_rounded_up(samples, frames):
    tokenizer = audio_tokenizer()
    (ids,) = tokenizer.encode([tone(0, samples)])
    assert ids.shape == (frames, 2) and ids.dtype == np.int32
    (made,) = tokenizer.decode([ids])
    assert made.rate == 16_000 and made.samples.shape == (frames * FRAME,)
    assert made.samples.dtype == np.float32 and np.abs(made.samples).max() <= 1


def test_at_most_100_codes_a_second_of_codebooks_of_their_own():
    row = audio_tokenizer(AudioSettings()).modality
    assert 25 * row.levels <= 100 and not row.shared and row.grid == "frames"


def test_the_digits_of_a_code_are_the_levels_of_its_vector():
    row = audio_tokenizer().modality
    assert row.digits == SMALL_AUDIO.levels
    codes = torch.arange(row.codes)
    network = AudioAutoencoder(SMALL_AUDIO)
    every = codes[None, :, None].expand(1, row.codes, row.levels)
    vectors_ND = network.quantizer.indices_to_codes(every)[0]
    rest = codes
    for base, values in zip(row.digits, vectors_ND[:, : len(row.digits)].T, strict=True):
        assert torch.equal(values.unique()[rest % base], values), "the digit is the level, counted from the lowest"
        rest = rest // base


def test_other_rates_are_resampled():
    tokenizer = audio_tokenizer()
    assert tokenizer.encode([tone(0, 8_000, rate=8_000)])[0].shape == (25, 2)


def test_an_element_does_not_depend_on_its_batch():
    tokenizer = audio_tokenizer(AudioSettings())
    batch = [tone(i, 4_000 + 3_000 * i) for i in range(3)]
    together = tokenizer.encode(batch)
    for clip, ids in zip(batch, together, strict=True):
        assert np.array_equal(tokenizer.encode([clip])[0], ids)
    for ids, made in zip(together, tokenizer.decode(together), strict=True):
        assert np.array_equal(tokenizer.decode([ids])[0].samples, made.samples)


def test_frames_keep_their_order_through_the_network():
    network = audio_tokenizer().network
    up = torch.arange(2 * 8 * 4 * 3.0).reshape(2, 32, 3)
    fast = up.unflatten(1, (-1, 4)).transpose(2, 3).flatten(2)
    assert torch.equal(fast[0, 0], torch.tensor([0.0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]))
    assert network(torch.zeros(1, 20, 12)).shape == (1, 257, 12)


@pytest.mark.parametrize(
    "clip, reason",
    [
        (Audio(np.zeros(0, np.float32), 16_000), "0 samples"),
        (Audio(np.zeros((2, 100), np.float32), 16_000), "one channel"),
        (Audio(np.zeros(100, np.int16), 16_000), "float"),
        (Audio(np.full(100, np.nan, np.float32), 16_000), "finite"),
        (Audio(np.zeros(100, np.float32), 0), "rate"),
    ],
)
def test_a_recording_that_cannot_be_encoded_is_refused(clip, reason):
    with pytest.raises(ValueError, match=reason):
        audio_tokenizer().encode([clip])


@pytest.mark.parametrize("ids", [np.zeros((5, 3), int), np.full((5, 2), 12), np.zeros((0, 2), int)])
def test_codes_that_are_none_are_refused(ids):
    with pytest.raises(ValueError, match="codes"):
        audio_tokenizer().decode([ids])


def test_an_artifact_gives_the_same_codes(tmp_path):
    tokenizer = audio_tokenizer()
    tokenizer.save(tmp_path / "audio")
    again = load(tmp_path / "audio")
    assert again.fingerprint == tokenizer.fingerprint and again.modality == tokenizer.modality
    assert np.array_equal(again.encode([tone(1)])[0], tokenizer.encode([tone(1)])[0])


def test_the_shipped_size_decodes_fast_and_is_small():
    tokenizer = audio_tokenizer(AudioSettings())
    assert sum(v.nbytes for v in tokenizer.weights.values()) <= 4_000_000
    ids = np.zeros((50, 4), np.int32)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        tokenizer.decode([ids])
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.6, "two seconds of sound; about 0.15 s of one core where it was measured"
    assert SMALL_AUDIO.codes == 12

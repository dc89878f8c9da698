import numpy as np
import pytest
import torch

from tests.evaluation.sounds import word
from trimask.core.item import Audio
from trimask.core.rng import generator
from trimask.evaluation import hearing


def test_level_does_not_matter():
    loud, soft = word("abc", level=0.5), word("abc", level=0.005)
    assert torch.allclose(hearing.mel_frames(loud), hearing.mel_frames(soft), atol=0.02)


def test_frames_are_a_hundred_a_second_whatever_the_rate():
    clip = word("ab")
    half = Audio(clip.samples[::2].copy(), clip.rate // 2)
    assert hearing.mel_frames(half).shape == hearing.mel_frames(clip).shape
    assert hearing.mel_frames(clip).shape[1] == pytest.approx(100 * clip.seconds, abs=4)


def test_silence_is_heard_as_silence():
    mel_MN = hearing.mel_frames(Audio(np.zeros(1600, np.float32), 16_000))
    assert torch.allclose(mel_MN, torch.tensor(hearing.SILENCE), atol=1e-3)


def test_spoiling_is_a_function_of_the_generator_and_keeps_finite_numbers():
    batch = hearing.padded([hearing.mel_frames(word(w)) for w in ("ab", "abcd", "d", "cc")])
    one, lengths = hearing.spoil(*batch, generator("spoil", 1))
    again, _ = hearing.spoil(*batch, generator("spoil", 1))
    other, _ = hearing.spoil(*batch, generator("spoil", 2))
    assert torch.equal(one, again) and not torch.equal(one[:, :, :5], other[:, :, :5])
    assert torch.isfinite(one).all()
    assert lengths.max() == one.shape[2] and (lengths > 0).all()


def test_warping_changes_speed_by_at_most_a_fifth():
    mel, lengths = hearing.padded([hearing.mel_frames(word("abcd"))] * 16)
    _, after = hearing.spoil(mel, lengths, generator("spoil", 3))
    assert ((after / lengths > 1 / 1.21) & (after / lengths < 1 / 0.84)).all()
    assert len(set(after.tolist())) > 4

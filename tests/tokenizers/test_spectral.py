import numpy as np
import pytest
import torch

from tests.tokenizers.samples import tone
from trimask.tokenizers import spectral


def wave(index: int, frames: int = 60) -> torch.Tensor:
    return torch.from_numpy(tone(index, frames * spectral.HOP).samples)[None]


def test_the_inverse_transform_is_exact():
    made = spectral.istft(spectral.stft(wave(0)))
    assert torch.allclose(made, wave(0), atol=1e-5)


def test_a_sine_of_amplitude_one_has_magnitude_one_in_its_bin():
    bin_ = 32
    sine = torch.cos(2 * torch.pi * bin_ / spectral.WINDOW * torch.arange(32 * spectral.HOP))[None]
    spectrum = spectral.stft(sine)
    assert spectrum.shape == (1, spectral.BINS, 32)
    assert spectrum[0, bin_, 16].abs().item() == pytest.approx(1, abs=1e-3)


def test_mel_filters_cover_every_band_and_sum_to_one():
    for bands in (20, 80):
        filters = spectral.mel_filters(bands)
        assert filters.shape == (bands, spectral.BINS) and (filters >= 0).all()
        assert torch.allclose(filters.sum(1), torch.ones(bands))
        centres = filters @ torch.arange(spectral.BINS, dtype=torch.float32)
        assert (centres.diff() > 0).all()


def test_mel_and_hertz_are_inverse():
    assert spectral.hertz(np.array([spectral.mel(440.0)])) == pytest.approx(440)


def test_griffin_lim_finds_a_wave_with_the_magnitudes_and_is_deterministic():
    magnitude = spectral.stft(wave(1)).abs()
    made = spectral.griffin_lim(magnitude, 32)
    error = (spectral.stft(made).abs() - magnitude).norm() / magnitude.norm()
    assert error < 0.15
    assert torch.equal(made, spectral.griffin_lim(magnitude, 32))


def test_more_iterations_come_nearer():
    magnitude = spectral.stft(wave(2)).abs()
    errors = [(spectral.stft(spectral.griffin_lim(magnitude, n)).abs() - magnitude).norm().item() for n in (2, 8, 32)]
    assert errors[0] > errors[1] > errors[2]

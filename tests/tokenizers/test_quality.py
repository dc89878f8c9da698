import numpy as np
import pytest
import torch

from tests.tokenizers.samples import audio_tokenizer, image_tokenizer, shapes, tone
from trimask.core.errors import UsageError
from trimask.core.item import Audio
from trimask.tokenizers.quality import code_use, compare, measure
from trimask.tokenizers.report import quality_table, spectrogram, write_report
from trimask.tokenizers.similarity import WINDOW, psnr, ssim
from trimask.tokenizers.text import TextTokenizer


def test_psnr_of_a_known_error():
    one = torch.zeros(1, 3, 8, 8)
    assert psnr(one, one + 0.1).item() == pytest.approx(20, abs=1e-4)


def test_ssim_of_one_window_is_the_formula():
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 1, WINDOW, WINDOW, dtype=torch.float64)
    c1, c2 = 0.01**2, 0.03**2
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    expected = (2 * a.mean() * b.mean() + c1) * (2 * covariance + c2)
    expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (a.var(correction=0) + b.var(correction=0) + c2)
    assert ssim(a, b).item() == pytest.approx(expected.item(), rel=1e-9)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    picture = torch.rand(1, 3, 32, 32)
    values = [ssim(picture, picture + s * torch.randn_like(picture)).item() for s in (0.0, 0.05, 0.5)]
    assert values[0] == pytest.approx(1, abs=1e-5) and values[0] > values[1] > values[2]


def test_code_use_of_a_uniform_distribution():
    tokenizer = image_tokenizer()
    use = code_use(tokenizer, [np.arange(12).reshape(3, 4), np.arange(12).reshape(3, 4)])
    assert use["usage_0"] == 1 and use["perplexity_0"] == pytest.approx(12)


def test_an_exact_recording_has_no_distance_but_the_floor():
    figures = compare(tone(0), tone(0))
    assert figures["mel_distance"] == 0 and 0 < figures["mel_floor"] < 0.5


def test_figures_by_kind_of_content():
    image = measure(image_tokenizer(), [shapes(0), shapes(1, 28, 28)])
    assert {"psnr", "ssim", "usage_0", "perplexity_0"} <= set(image) and image["codes_per_item"] == (64 + 49) / 2
    audio = measure(audio_tokenizer(), [tone(0)])
    assert {"mel_distance", "mel_floor", "usage_1"} <= set(audio)
    text = measure(TextTokenizer.train(["aaaa"], 256), ["hello", "é"])
    assert text["exact"] == 1 and text["bytes_per_code"] == 1
    with pytest.raises(UsageError):
        measure(image_tokenizer(), [])
    with pytest.raises(UsageError, match="dict"):
        compare({}, {})


def test_a_report_holds_what_it_shows(tmp_path):
    path = tmp_path / "report.html"
    tokenizer = image_tokenizer()
    tokenizer.quality = {"world": {"psnr": 31.25}}
    write_report(path, tokenizer, {"scenes": [shapes(0), shapes(1)]})
    page = path.read_text()
    assert page.count("data:image/png;base64,") == 4 and "31.25" in page and "scenes" in page
    assert "http" not in page
    write_report(path, audio_tokenizer(), {"tones": [tone(0)]})
    page = path.read_text()
    assert page.count("data:audio/wav;base64,") == 2 and page.count("data:image/png") == 2
    write_report(path, TextTokenizer.train(["a"], 256), {"texts": ["<b>"]})
    assert "&lt;b&gt;" in path.read_text()
    with pytest.raises(UsageError):
        write_report(path, tokenizer, {})


def test_a_table_leaves_missing_figures_empty():
    table = quality_table({"a": {"psnr": 30.0}, "b": {"ssim": 0.9}})
    assert "<td>30<td>" in table and "<td><td>0.9" in table and quality_table({}) == ""


def test_a_spectrogram_is_silent_where_the_recording_is():
    clip = Audio(np.r_[np.zeros(6400, np.float32), tone(0, 6400).samples], 16_000)
    picture = spectrogram(clip)
    assert picture.shape == (80, 80, 3) and picture[:, :30].mean() < 5 < picture[:, 50:].mean()

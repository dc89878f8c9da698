import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trimask.core.errors import DataError, UsageError
from trimask.data.world import speech
from trimask.data.world.speech import HELD_OUT_VOICE, PEAK, RATE, TRAIN_VOICES, VOICES, synthesize

espeakng_loader = pytest.importorskip("espeakng_loader", reason="the extra `world` is not installed")


def test_voices():
    assert len(TRAIN_VOICES) >= 6 and len(VOICES) == len(TRAIN_VOICES) + 1
    assert HELD_OUT_VOICE not in {voice.name for voice in TRAIN_VOICES}
    clips = [synthesize("seven red stars", voice.name).samples for voice in VOICES]
    for i, a in enumerate(clips):
        assert not any(len(a) == len(b) and np.array_equal(a, b) for b in clips[i + 1 :])


@pytest.mark.parametrize("voice", [voice.name for voice in VOICES])
def test_a_clip_does_not_depend_on_the_clips_before_it(voice):
    text = "the old man walked to the sea"
    first = synthesize(text, voice, 170)
    for other in VOICES[::3]:
        synthesize("three small circles", other.name, 190)
    assert np.array_equal(synthesize(text, voice, 170).samples, first.samples)


def test_threads_and_processes_give_the_same_clip():
    expected = {voice.name: synthesize("forty two", voice.name).samples for voice in VOICES[:4]}
    with ThreadPoolExecutor(4) as pool:
        names = [*expected] * 3
        for name, clip in zip(names, pool.map(lambda n: synthesize("forty two", n), names), strict=True):
            assert np.array_equal(clip.samples, expected[name])
    code = (
        "import sys; from trimask.data.world.speech import synthesize; "
        "sys.stdout.buffer.write(synthesize('forty two', 'british man').samples.tobytes())"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert out == expected["british man"].tobytes()


def test_clips_are_clean():
    clip = synthesize("a large blue square below two small red circles", "american woman")
    wave = clip.samples
    assert clip.rate == RATE and wave.dtype == np.float32 and wave.ndim == 1
    assert np.abs(wave).max() == pytest.approx(PEAK)
    assert 1.5 < clip.seconds < 4
    for end in (wave[:800], wave[-800:]):
        assert np.abs(end).max() > 0.005


def test_a_faster_rate_is_shorter():
    slow, fast = (synthesize("we saw ten cows at school", "scottish man", r).seconds for r in (150, 200))
    assert fast < 0.9 * slow


def test_refusals(monkeypatch):
    with pytest.raises(UsageError, match="american man"):
        synthesize("hello", "martian man")
    with pytest.raises(ValueError, match="nothing that can be spoken"):
        synthesize("...", "american man")
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UsageError, match=r"pip install 'trimask\[world\]'"):
        synthesize("hello", "american man")


def test_a_long_path_to_the_data_is_no_obstacle(tmp_path, monkeypatch):
    deep = tmp_path / ("a" * 120) / ("b" * 80) / "espeak-ng-data"
    deep.parent.mkdir(parents=True)
    deep.symlink_to(espeakng_loader.get_data_path())
    expected = synthesize("seven", "american man").samples
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep))
    assert np.array_equal(synthesize("seven", "american man").samples, expected)


def test_missing_data_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path)[-speech.LONGEST_PATH :])
    with pytest.raises(DataError, match="reinstall espeakng-loader"):
        synthesize("seven", "american man")

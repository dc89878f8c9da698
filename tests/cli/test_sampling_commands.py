import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

FEW = ("--steps", 3)


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.sin(np.arange(6400) / 20) * 0.5, 16_000)
    return path


def test_generate_an_image(trimask, bundle: Path, tmp_path: Path):
    out = tmp_path / "new" / "out.png"
    done = trimask("generate", "a red circle", "-o", out, "-m", bundle, "--size", "40x28", "--guidance", 2, *FEW)
    assert (done.code, done.out) == (0, f"{out}\n")
    assert Image.open(out).size == (40, 28)
    first = out.read_bytes()
    trimask("generate", "a red circle", "-o", out, "-m", bundle, "--size", "40x28", "--guidance", 2, *FEW)
    assert out.read_bytes() == first


def test_generate_several_speeches(trimask, bundle: Path, tmp_path: Path):
    done = trimask("generate", "seven", "-o", tmp_path / "a.wav", "-n", 2, "-m", bundle, "--seconds", 0.2, *FEW)
    assert done.out.split() == [str(tmp_path / f"a-{i}.wav") for i in range(2)]
    assert soundfile.info(tmp_path / "a-1.wav").frames == 5 * 640


def test_generate_a_text_to_the_screen_or_a_file(trimask, bundle: Path, tmp_path: Path):
    shown = trimask("generate", "a red", "--to", "text", "-m", bundle, *FEW)
    assert shown.out.startswith("a red")
    written = trimask("generate", "a red", "-o", tmp_path / "a.txt", "-m", bundle, *FEW)
    assert written.out == f"{tmp_path / 'a.txt'}\n"
    assert (tmp_path / "a.txt").read_text() == shown.out


def test_default_files_are_named_out(trimask, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert trimask("generate", "seven", "--to", "image", "-m", bundle, *FEW).out == "out.png\n"
    assert trimask("generate", "seven", "--to", "speech", "-m", bundle, "--seconds", 0.2, *FEW).out == "out.wav\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "out.wav"]


def test_every_step_can_be_replayed_and_watched(trimask, bundle: Path, tmp_path: Path):
    draw = ("generate", "a red circle", "-m", bundle, *FEW)
    assert trimask(*draw, "-n", 2, "-o", tmp_path / "x.gif").out.split() == [
        str(tmp_path / f"x-{i}.gif") for i in (0, 1)
    ]
    with Image.open(tmp_path / "x-1.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 3
    assert trimask(*draw, "--to", "image", "-o", tmp_path / "x.html").out == f"{tmp_path / 'x.html'}\n"
    spoken = ("generate", "seven", "-m", bundle, "--seconds", 0.2, "--to", "speech", "-n", 2, *FEW)
    trimask(*spoken, "-o", tmp_path / "y.html")
    assert (tmp_path / "y.html").read_text().count("data:audio/wav;base64,") == 2
    watched = trimask(*draw, "--watch", "-o", tmp_path / "x.png")
    assert watched.out == f"{tmp_path / 'x.png'}\n" and "▀" * 32 in watched.err


def test_guidance_and_temperature_may_change_over_the_steps(trimask, bundle: Path, tmp_path: Path):
    made = {}
    for guidance in ("4", "0:4", "4:2@0.3-0.8"):
        out = tmp_path / "out.png"
        done = trimask("generate", "a red circle", "-o", out, "-m", bundle, "--guidance", guidance, "--sampler",
                       "random-order", "--steps", 8)  # fmt: skip
        assert done.code == 0
        made[guidance] = out.read_bytes()
    assert len({*made.values()}) == 3
    done = trimask("generate", "a red", "--to", "text", "-m", bundle, "--temperature", "1:0", "--sampler",
                   "confidence:by=entropy", "--min-p", 0.05, "--repetition", 1.3, "--cache", "changed:every=2",
                   *FEW)  # fmt: skip
    assert done.code == 0 and done.out.startswith("a red")


def test_caption_and_transcribe(trimask, bundle: Path, png: Path, wav: Path):
    one = trimask("caption", png, "-m", bundle, *FEW)
    assert one.code == 0
    several = trimask("caption", png, png, "-m", bundle, "--temperature", 0, *FEW)
    assert [line.split("\t")[0] for line in several.out.splitlines() if "\t" in line] == [str(png)] * 2
    assert trimask("transcribe", wav, "-m", bundle, *FEW).code == 0


def test_fill(trimask, bundle: Path, png: Path, wav: Path, tmp_path: Path):
    text = trimask("fill", "--text", "a red [1] above", "-m", bundle, *FEW)
    assert text.out.startswith("a red")
    edited = trimask(
        "fill", "--image", png, "--box", "0,0,8,8", "--text", "x", "-o", tmp_path / "e.png", "-m", bundle, *FEW
    )
    assert edited.out == f"{tmp_path / 'e.png'}\n"
    clip = trimask("fill", "--speech", wav, "--interval", "0.1,0.2", "-o", tmp_path / "e.wav", "-m", bundle, *FEW)
    assert clip.code == 0
    assert soundfile.info(tmp_path / "e.wav").frames == 6400
    for seconds, frames in ((0.04, 5120), ("any", None)):
        shorter = trimask(
            "fill", "--speech", wav, "--interval", "0.08,0.2", "--seconds", seconds, "-o", tmp_path / "s.wav",
            "-m", bundle, *FEW,
        )  # fmt: skip
        assert shorter.code == 0 and frames in (None, soundfile.info(tmp_path / "s.wav").frames)
    both = trimask(
        "fill", "--text", "a [1]", "--missing", "image", "--missing", "speech", "--seconds", 0.2,
        "-o", tmp_path / "parts", "-m", bundle, *FEW,
    )  # fmt: skip
    assert both.code == 0
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["image.png", "speech.wav", "text.txt"]


def test_filling_can_be_replayed(trimask, bundle: Path, png: Path, wav: Path, tmp_path: Path):
    box = ("fill", "--image", png, "--box", "0,0,8,8", "-m", bundle, *FEW)
    assert trimask(*box, "-o", tmp_path / "e.gif").out == f"{tmp_path / 'e.gif'}\n"
    assert Image.open(tmp_path / "e.gif").n_frames == 3  # pyright: ignore[reportAttributeAccessIssue]
    sound = ("fill", "--speech", wav, "--interval", "0.1,0.2", "-m", bundle, *FEW)
    assert trimask(*sound, "-o", tmp_path / "s.html").code == 0
    assert "<audio controls" in (tmp_path / "s.html").read_text()
    assert trimask("fill", "--text", "a [2] b", "-o", tmp_path / "t.html", "-m", bundle, *FEW).code == 0
    refused = trimask(*sound, "-o", tmp_path / "s.gif")
    assert refused.code == 2 and "name an .html page" in refused.err


def test_score(trimask, bundle: Path, png: Path):
    done = trimask("score", "--text", "seven", "-m", bundle, "--draws", 4)
    assert "bits per byte over 5 bytes" in done.out
    given = trimask("score", "--text", "seven", "--image", png, "--target", "text", "--draws", 4, "-m", bundle)
    assert given.out.startswith("image>text: bound")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("generate", "x"), 2, "say what to make"),
        (("generate", "x", "--to", "video"), 2, "choose one of image, speech, text"),
        (("generate", "x", "-o", "x.mp4"), 2, "must end in one of"),
        (("generate", "x", "--to", "image", "-o", "x.wav"), 2, "must end in .png"),
        (("generate", "x", "--to", "image", "--size", "big"), 2, "--size"),
        (("generate", "x", "--to", "image", "--size", "27", "-m", "BUNDLE"), 2, "sides are"),
        (("generate", "x", "--to", "image", "--size", "-32"), 2, "at least one pixel a side"),
        (("generate", "x", "--to", "image", "--size", "1000000", "-m", "BUNDLE"), 2, "size="),
        (("fill", "--image", "x.png", "--box", "0,0,8,8", "-o", "x.wav"), 2, "must end in .png"),
        (("fill", "--text", "x", "--missing", "image", "--missing", "speech", "-o", "x.wav"), 2, "name one"),
        (("generate", "x", "--to", "image", "--sampler", "magic", "-m", "BUNDLE"), 2, "no sampler is called 'magic'"),
        (("generate", "x", "--to", "image", "--steps", "0", "-m", "BUNDLE"), 2, "steps must be at least 1"),
        (("generate", "x", "--to", "image", "-m", "no/such/model"), 4, "there is no model 'no/such/model'"),
        (("generate", "x", "--to", "image", "-m", "BUNDLE", "--device", "tpu"), 2, "device 'tpu'"),
        (("caption", "gone.png", "-m", "BUNDLE"), 3, "gone.png does not exist"),
        (("caption", "BAD", "-m", "BUNDLE"), 3, "not an image"),
        (("transcribe", "BAD", "-m", "BUNDLE"), 3, "audio cannot be decoded"),
        (("generate", "x", "-o", "x.html"), 2, "say what to make with --to"),
        (("generate", "x", "--to", "image", "--guidance", "much"), 2, "guidance much: write a number"),
        (("generate", "x", "--to", "image", "--guidance", "3@0.8-0.2"), 2, "0 <= begin < end <= 1"),
        (("generate", "x", "--to", "text", "--negative", "y"), 2, "--negative is for pictures and speech"),
        (
            (
                "generate",
                "x",
                "--to",
                "image",
                "--sampler",
                "blockwise:inner=threshold",
                "--steps",
                "3",
                "-m",
                "BUNDLE",
            ),
            2,
            "leave steps out",
        ),
        (("generate", "x", "--to", "image", "--weaker", "nowhere", "-m", "BUNDLE"), 4, "nowhere"),
        (("generate", "x", "--to", "image", "--voice", "y"), 2, "--voice is for speech; this makes image"),
        (("generate", "x", "--to", "speech", "--length", "3"), 2, "--length is for text; this makes speech"),
        (("generate", "x", "--to", "text", "--size", "32"), 2, "--size is for image; this makes text"),
        (("generate", "x", "--to", "image", "-o", "BAD/x.png"), 2, "bad.bin is no folder"),
        (
            ("generate", "x", "--to", "image", "-m", "BUNDLE", "--temperature", "1e-46"),
            2,
            "temperature=1e-46 must be 0",
        ),
        (("generate", "x", "--to", "image", "-m", "BUNDLE", "--guidance", "1e39"), 2, "guidance=1e+39 must be"),
        (("generate", "x", "--to", "image", "-m", "BUNDLE", "--top-p", "0"), 2, "top_p=0.0 must be above 0"),
        (
            ("generate", "x", "--to", "image", "-m", "BUNDLE", "--negative", "y", "--guidance", "0:0"),
            2,
            "guidance of image is 0",
        ),
        (("generate", "x", "--to", "speech", "-m", "BUNDLE", "--seconds", "1e12"), 2, "more than any model"),
        (("generate", "x", "--to", "text", "-m", "BUNDLE", "--length", "100000000000000"), 2, "longer than any row"),
        (
            ("generate", "x", "--to", "image", "-m", "BUNDLE", "--sampler", "ancestral:schedule=poly0"),
            2,
            "no noise schedule 'poly0'",
        ),
        (("fill", "--missing", "voice", "--text", "seven", "-m", "BUNDLE"), 2, "a voice is not made"),
        (
            ("fill", "--missing", "image", "--missing", "image", "--text", "x", "-m", "BUNDLE"),
            2,
            "image is twice missing",
        ),
        (("fill", "--text", "a [99999999999999] b", "-m", "BUNDLE"), 2, "longer than any row"),
        (("fill", "--text", "a [1] b", "--seconds", "2", "-m", "BUNDLE"), 2, "this request has none"),
        (("fill", "--text", "a [1] b", "--size", "32", "-m", "BUNDLE"), 2, "--size is of an image"),
        (("fill", "--speech", "WAV", "--interval", "0.2,inf", "-m", "BUNDLE"), 2, "an interval is two times"),
        (("fill", "--speech", "WAV", "--interval", "0.2,1e12", "-m", "BUNDLE"), 2, "behind any row"),
        (("fill", "-m", "BUNDLE"), 2, "nothing to fill"),
        (("fill", "--text", "no hole", "-m", "BUNDLE"), 2, "nothing is to be filled"),
        (("fill", "--image", "x.png", "--box", "1,2"), 2, "write 4 numbers"),
        (("score", "-m", "BUNDLE"), 2, "nothing to score"),
        (("score", "--text", "x", "--draws", "3", "-m", "BUNDLE"), 2, "--draws 3"),
    ],
)
def test_errors_are_clear(trimask, bundle: Path, wav: Path, tmp_path: Path, arguments, code: int, message: str):
    bad = tmp_path / "bad.bin"
    bad.write_bytes(b"neither picture nor sound")
    named = {"BUNDLE": str(bundle), "BAD": str(bad), "BAD/x.png": str(bad / "x.png"), "WAV": str(wav)}
    done = trimask(*(named.get(a, a) for a in arguments))
    assert done.code == code
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert message in done.err


def test_tune_finds_presets_that_generate_uses(trimask, bundle: Path, tmp_path: Path):
    own = shutil.copytree(bundle, tmp_path / "own")
    few = ("only=text>image", "trials=3", "items=2", "finalists=3", "final=2", "--items", 8)
    done = trimask("tune", own, "world:scenes?split=validation", *few, "-o", tmp_path / "tuned", "--no-write")
    assert done.code == 0 and "trial 3/3" in done.out and "sampling.json" not in done.err
    draw = ("generate", "a red circle", "-m", own, "-o", tmp_path / "x.png", "--preset")
    refused = trimask(*draw, "fast")
    assert refused.code == 2 and "no sampling preset 'fast'; it has: balanced. `trimask tune` finds them" in refused.err
    again = trimask("tune", own, "world:scenes?split=validation", *few, "-o", tmp_path / "tuned")
    assert again.code == 0 and "trial" not in again.out.split("report in")[0]
    assert f"written: {own / 'sampling.json'}" in again.err
    assert trimask(*draw, "fast").code == trimask(*draw, "balanced", "--steps", 2).code == 0
    nothing = trimask("tune", own, "-o", tmp_path / "none")
    assert nothing.code == 2 and "say what to tune on" in nothing.err

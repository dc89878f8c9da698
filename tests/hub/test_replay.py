import base64
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from trimask.diffusion.samplers import Remasking
from trimask.hub.model import Model
from trimask.hub.replay import GREY, SCALE, Replay


def test_a_picture_appears_cell_by_cell(model: Model, tmp_path: Path):
    replay = Replay(model.layout)
    made = model.image("a red circle", steps=5, on_step=replay)
    (steps,) = replay.rows
    hidden = [int(step[0].hidden.sum()) for step in steps]
    assert len(steps) == 5 and hidden == sorted(hidden, reverse=True) and hidden[-1] == 0 < hidden[0]
    held = [step[0] for step in steps]
    shown = replay.shown(held, held[-1])
    for h, s in zip(held, shown, strict=True):
        assert s.picture is not None
        assert (s.picture[h.hidden.repeat(4, 0).repeat(4, 1)] == GREY).all()
        # What is known looks as it does in the end.
        known = ~h.hidden.repeat(4, 0).repeat(4, 1)
        assert (s.picture[known] == np.array(made)[known]).all()
    replay.gif(0, tmp_path / "x.gif")
    with Image.open(tmp_path / "x.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 5 and gif.size == (32 * SCALE, 32 * SCALE)


def test_several_rows_of_any_kind_are_on_one_page(model: Model, tmp_path: Path):
    replay = Replay(model.layout)
    made = model.speech("seven", seconds=0.3, n=2, steps=3, on_step=replay)
    sounds = [b"RIFF-one", base64.b64decode("DATATITLEROWSxxx")]
    replay.page(tmp_path / "x.html", "<seven> DATA", sounds)
    page = (tmp_path / "x.html").read_text()
    (found,) = re.findall(r"const rows = (.*), at = ", page)
    rows = json.loads(found)
    assert [len(r) for r in rows] == [3, 3] and all(step.count("<img") == 1 for row in rows for step in row)
    assert page.count("<audio") == page.count("class=row>") == len(made) == 2
    assert page.count("&lt;seven&gt; DATA") == 2 and page.count("DATATITLEROWSxxx") == 1
    assert "&lt;seven&gt;" in page and "<seven>" not in page and "http" not in page


def test_text_is_shown_in_pieces_with_a_place_for_each_masked_token(model: Model, tmp_path: Path):
    replay = Replay(model.layout)
    text = model.text("a red", length=6, steps=3, on_step=replay)
    last = replay.shown([replay.rows[0][-1][0]])[0]
    assert "".join(p or "" for p in last.pieces).strip() == text and None not in last.pieces
    first = replay.shown([replay.rows[0][0][0]])[0]
    assert first.pieces.count(None) == int(replay.rows[0][0][0].hidden.sum()) > 0
    replay.page(tmp_path / "x.html", "text")
    assert "<i><\\/i>" in (tmp_path / "x.html").read_text()


def test_the_terminal_shows_the_batch_at_hand(model: Model):
    replay = Replay(model.layout)
    console = Console(width=80, record=True, color_system="truecolor", file=open("/dev/null", "w"))  # noqa: SIM115
    model.image("a red circle", n=2, steps=2, on_step=replay)
    console.print(replay.terminal())
    assert console.export_text().count("▀") == 2 * 16 * 32


def test_tokens_that_are_masked_again_are_shown_as_masked(model: Model):
    replay = Replay(model.layout)
    sampler = Remasking(steps=6, eta=1.0, kind="rescale")
    model.image("a red circle", on_step=replay, sampler=sampler)
    hidden = np.stack([step[0].hidden for step in replay.rows[0]])
    assert (hidden[1:] & ~hidden[:-1]).any() and not hidden[-1].any()

"""Coordinates of given lines follow how long their codes last; nothing else moves."""

import chz
import numpy as np
import pytest
import torch

from trimask.core.canvas import Composer, Row, Segment
from trimask.core.errors import UsageError
from trimask.core.modality import Modality, Vocabulary
from trimask.hub.bundle import load_bundle, save_bundle
from trimask.model.config import ModelConfig
from trimask.model.timing import LONGEST, STEP, Timing
from trimask.model.transformer import Transformer

ROWS = (
    Modality(name="text", grid="line", codes=10, pace=6, timed=True),
    Modality(name="audio", grid="frames", codes=4, levels=2, stack=True),
)
V = Vocabulary(modalities=ROWS)
SAID = np.array([3, 1, 4])
SOUND = Segment("speech", np.zeros((13, 2), int), True)


def timed() -> Timing:
    timing = Timing(V, 0)
    timing.set(torch.arange(10) * 2.0 + 1)
    return timing


def laid(*rows: Row) -> tuple[torch.Tensor, torch.Tensor]:
    canvas = Composer(V, 48, 80).compose([rows])
    return canvas.coords_BP2[0].float(), timed()(canvas, canvas.coords_BP2.float())[0]


def test_given_codes_stand_at_the_middle_of_the_time_they_last():
    before, after = laid(Row((Segment("text", SAID), SOUND)))
    # Codes 3, 1 and 4 last 7, 3 and 9 frames; the first frame is at 1.
    assert after[3:6].tolist() == [[1 + 3.5, 1], [1 + 7 + 1.5, 2], [1 + 7 + 3 + 4.5, 3]]
    rest = [*range(3), *range(6, 48)]
    assert torch.equal(after[rest], before[rest])


def test_every_segment_and_item_starts_over():
    _, alone = laid(Row((Segment("text", SAID), SOUND)))
    _, packed = laid(Row((Segment("voice", SAID[:2]), Segment("text", SAID), SOUND)), Row((Segment("text", SAID),)))
    assert torch.equal(packed[6:9], alone[3:6])
    assert torch.equal(packed[-48 + 9 + 15 + 3 :][:3], alone[3:6])


@pytest.mark.parametrize(
    "segment",
    [Segment("text", SAID, True), Segment("text", SAID, True, hidden=True), Segment("text", SAID, hidden=True)],
    ids=["target", "hidden target", "withheld"],
)
def test_coordinates_do_not_tell_what_is_not_given(segment: Segment):
    before, after = laid(Row((segment, SOUND)))
    assert torch.equal(before, after)


def test_durations_are_kept_exactly_by_a_bundle_in_bf16(tmp_path):
    model = Transformer(ModelConfig(vocabulary=V, depth=1, width=32, head_dim=16))
    timing = model.timing["text"]
    assert isinstance(timing, Timing) and timing.duration.tolist() == [6.0] * 10
    timing.set(torch.tensor([0.0, 0.03, 1.06, 5.8, 17.9, 31.8, 99.0, 2, 3, 4]))
    assert timing.duration[:7].tolist() == [STEP, STEP, 1.0, 5.75, 17.875, 31.75, LONGEST]
    save_bundle(tmp_path / "saved", model, {}, (), {}, dtype="bf16")
    again = load_bundle(tmp_path / "saved").model.timing["text"]
    assert isinstance(again, Timing) and torch.equal(again.duration, timing.duration)


def test_only_lines_are_timed():
    with pytest.raises(UsageError, match="timed"):
        chz.replace(ROWS[1], timed=True)

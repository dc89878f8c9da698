"""`make demo` from end to end, its training cut to seconds, and a second run that reuses the first."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]


def demo(out: Path) -> str:
    # The environment is there: it runs this test.
    installed = ("-o", f"{sys.prefix}/.installed", f"VENV={sys.prefix}")
    command = ["make", "-C", str(ROOT), *installed, "demo", f"ARGS=--minutes 0.3 --out {out}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_second_demo_reuses_the_first(tmp_path: Path):
    out = tmp_path / "demo"
    said = demo(out)
    for name in ("nano/pictures.png", "nano/speech-0.wav", "nano/text.txt", "model/metrics.jsonl", "report.html"):
        assert (out / name).stat().st_size > 0, name
    for stage in ("The shipped model", "Tokenizers", "Data", "Training from scratch", "Grading"):
        assert stage in said

    weights = sorted(out.glob("model/checkpoints/*/model.safetensors"))
    before = [(p, p.read_bytes()) for p in weights]
    assert before
    start = time.time()
    demo(out)
    assert [(p, p.read_bytes()) for p in sorted(out.glob("model/checkpoints/*/model.safetensors"))] == before
    kept = [p for p in (out / "evaluation" / "sections").rglob("section.json") if p.stat().st_mtime < start]
    assert kept, "the second run graded again what the first had graded"

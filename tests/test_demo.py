"""`trimask demo` from end to end, its training cut to seconds, and a second run that reuses the first."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimask.hub.bundle import CONFIG, MODELS

pytestmark = pytest.mark.long
SHIPPED = (MODELS / "nano" / CONFIG).is_file()


def demo(folder: Path) -> str:
    command = [sys.executable, "-m", "trimask", "demo", "--minutes", "0.3"]
    done = subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_second_demo_reuses_the_first(tmp_path: Path):
    said = demo(tmp_path)
    out = tmp_path / "runs" / "demo"
    made = ("nano/pictures.png", "nano/speech-0.wav", "nano/text.txt") if SHIPPED else ()
    for name in (*made, "model/metrics.jsonl", "report.html"):
        assert (out / name).stat().st_size > 0, name
    for stage in ("Tokenizers", "Data", "Training from scratch", "Grading"):
        assert stage in said

    weights = sorted(out.glob("model/checkpoints/*/model.safetensors"))
    before = [(p, p.read_bytes()) for p in weights]
    assert before
    start = time.time()
    demo(tmp_path)
    assert [(p, p.read_bytes()) for p in sorted(out.glob("model/checkpoints/*/model.safetensors"))] == before
    kept = [p for p in (out / "evaluation" / "sections").rglob("section.json") if p.stat().st_mtime < start]
    assert kept, "the second run graded again what the first had graded"

"""The commands of the README are run as written, with trainings cut to seconds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORTER = {
    "codes=2048": "codes=400",
    "minutes=15": "steps=4 batch=4 objective.settings.width=16 objective.settings.inner=16",
    "budget.minutes=30": "budget.minutes=None budget.steps=3 model.depth=1 model.width=64 data.rows=2 hooks.0.every=3",
    "photos --count 500": "photos --count 24",
    "--split test --count 100": "--split test --count 8",
    "evaluate runs/mine photos-held": (
        "evaluate runs/mine photos-held drawings=2 captions=2 texts=2 cloze=2 likelihood=2 draws=4 --items 4"
    ),
}
"""Part of a command in the README -> what stands there in the test."""
NOT_HERE = ("make demo", "python3 -m venv", "source ", "pip install")
"""Commands that install or take minutes: the test run itself installs, `test_demo.py` runs the demo."""


def test_the_reference_is_what_the_commands_say():
    assert subprocess.run([sys.executable, "docs/build.py", "--check"], cwd=ROOT).returncode == 0, "run `make docs`"


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def shortened(command: str) -> str:
    for written, short in SHORTER.items():
        command = command.replace(written, short)
    return command


def run(command: str, folder: Path) -> None:
    parts = shlex.split(command)
    assert parts[0] == "trimask", f"the README has a command that this test does not know: {command}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *parts], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.long
def test_the_commands_of_the_readme_work(tmp_path: Path):
    commands = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() if line]
    written = [c for c in commands if not c.startswith(NOT_HERE)]
    assert len(written) > 6
    for made in re.findall(r"`(trimask world photos[^`]*)`", (ROOT / "README.md").read_text()):
        run(shortened(made), tmp_path)
    for command in written:
        run(shortened(command), tmp_path)
    assert (tmp_path / "out.png").is_file()
    for block in blocks(ROOT / "README.md", "python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_the_commands_of_editing_work(tmp_path: Path):
    written = [line for block in blocks(ROOT / "docs/editing.md", "sh") for line in block.splitlines() if line]
    for command in written:
        run(command, tmp_path)
    (block,) = blocks(ROOT / "docs/editing.md", "python")
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "told").iterdir()} == {"text.txt", "image.png"}


@pytest.mark.long
def test_the_sets_of_nano_are_made_as_its_page_says(tmp_path: Path):
    (command,) = [c for b in blocks(ROOT / "docs/nano.md", "sh") for c in b.splitlines() if "recipes.sets" in c]
    shipped = ROOT / "trimask" / "models" / "nano" / "tokenizers"
    written = command.replace("--tokenizers tokenizers", f"--tokenizers {shipped}")
    parts = shlex.split(written.replace("--data DATA", "--world --scale 0.0005"))
    done = subprocess.run([sys.executable, *parts[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    made = {p.name for p in (tmp_path / "sets" / "train").iterdir()}
    assert made == {"scenes", "speech", "spoken-scenes", "world-text"}


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_somewhere(document: str):
    path = ROOT / document
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing, f"{path} links to files that are not there: {missing}"

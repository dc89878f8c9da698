"""The package as a whole: what it exports, what it imports, and the example that explains it."""

import subprocess
import sys
from pathlib import Path

import trimask

ROOT = Path(__file__).parents[1]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_everything_exported_exists():
    assert sorted(trimask.__all__) == trimask.__all__
    for name in trimask.__all__:
        assert getattr(trimask, name) is not None


def test_importing_the_package_does_not_import_torch():
    assert python("import sys, trimask; print('torch' in sys.modules, 'numpy' in sys.modules)") == "False False\n"


def test_the_minimal_example_learns():
    example = ROOT / "examples" / "minimal.py"
    assert len(example.read_text().splitlines()) <= 200
    done = subprocess.run(
        [sys.executable, str(example), "--steps", "900"], capture_output=True, text=True, check=True, timeout=300
    )
    shares = [int(line.rsplit(" ", 3)[1].rstrip("%")) for line in done.stdout.splitlines() if "all right" in line]
    assert len(shares) == 4
    assert min(shares) >= 50

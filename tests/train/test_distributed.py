"""Several processes train what one does: the same batches and masks, and losses that differ by rounding."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import world_run
from safetensors.torch import load_file

from trimask.train import checkpoint, record

PROGRAM = Path(world_run.__file__)


def started(
    run: Path, processes: int, shards: int = 0, struck: int = 0, by: signal.Signals = signal.SIGKILL, restarts: int = 0
) -> int:
    """The exit code of a run; `shards=0`: all processes share one copy of the state. One may be struck by a signal."""
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    words += [f"--max-restarts={restarts}", str(PROGRAM), str(run), str(shards), str(struck), str(int(by))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(f"{run}.out", "a") as out:
        return subprocess.run([sys.executable, *words], stdout=out, stderr=out, env=environment, check=False).returncode


def assert_same_steps(run: Path, alone: Path) -> None:
    """Every step on the same tokens, with the same losses but for rounding in fp32."""
    ours, theirs = record.read_metrics(run), record.read_metrics(alone)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(1, world_run.STEPS + 1))
    for key in ("tokens", "items", "epochs", "filled"):
        assert [r[key] for r in ours] == [r[key] for r in theirs]
    for key in ("loss", "losses", "cross_entropy", "gradient_norms"):
        for one, other in zip(ours, theirs, strict=True):
            assert np.allclose(numbers(one[key]), numbers(other[key]), rtol=2e-3, atol=1e-4), (key, one["step"])
    for part in ("loss", "gradient_norms"):
        assert np.allclose(numbers(ours[0][part]), numbers(theirs[0][part]), rtol=1e-5)


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [x for v in value.values() for x in numbers(v)]
    if isinstance(value, list):
        return [x for v in value for x in numbers(v)]
    return [] if value is None else [float(value)]  # pyright: ignore[reportArgumentType]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.found(run / "checkpoints")[0] / "model.safetensors")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    assert world_run.main([str(run), "0", "0", "0"]) == 0
    return run


def test_two_processes_that_share_the_state(tmp_path, alone):
    assert started(tmp_path / "run", 2) == 0
    assert_same_steps(tmp_path / "run", alone)
    assert_near(tmp_path / "run", alone)


def assert_near(run: Path, alone: Path) -> None:
    ours, theirs = weights(run), weights(alone)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[k], theirs[k], atol=2e-3) for k in ours)


@pytest.mark.long
@pytest.mark.parametrize("processes, shards", [(2, 1), (4, 1), (4, 4), (4, 2)])
def test_data_parallel_sharded_and_both(tmp_path, alone, processes, shards):
    assert started(tmp_path / "run", processes, shards) == 0
    assert_same_steps(tmp_path / "run", alone)


@pytest.mark.long
def test_a_run_goes_on_with_fewer_processes(tmp_path, alone):
    """Four, of which one is killed; two, of which one is; one."""
    run = tmp_path / "run"
    assert started(run, 4, 2, struck=25) != 0
    assert checkpoint.found(run / "checkpoints")[0].name == "step-00000020"
    assert started(run, 2, 1, struck=37) != 0
    assert checkpoint.found(run / "checkpoints")[0].name == "step-00000030"
    assert world_run.main([str(run), "0", "0", "0"]) == 0
    assert_same_steps(run, alone)


@pytest.mark.long
def test_a_killed_process_comes_back_by_itself(tmp_path):
    """To the same bits as an undisturbed run of as many processes."""
    assert started(tmp_path / "whole", 2) == 0
    assert started(tmp_path / "run", 2, struck=25, restarts=1) == 0
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    events = [r["event"] for r in record.read_metrics(tmp_path / "run", "event")]
    assert "resumed" in events


@pytest.mark.long
def test_a_process_that_hangs_is_named(tmp_path):
    """The run ends when the others have waited long enough; its checkpoints are there to go on from."""
    run = tmp_path / "run"
    assert started(run, 2, struck=25, by=signal.SIGSTOP) != 0
    said = " ".join(Path(f"{run}.out").read_text().split())
    assert f"process 0 waits in vain for the others: process 1 (on {socket.gethostname()}) is at the data of" in said
    assert "of step 26, the others are beyond" in said
    assert checkpoint.found(run / "checkpoints")[0].name == "step-00000020"

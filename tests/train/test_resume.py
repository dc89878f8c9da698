"""Reliability: kills, signals, full disks, damaged files, wrong commands; resume equals no resume."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chz
import pytest
import torch
import toy_run
from safetensors.torch import load_file

from trimask.core.errors import ArtifactError, TrainingError, UsageError
from trimask.diffusion.samplers import RandomOrder
from trimask.diffusion.settings import Settings
from trimask.hub import bundle
from trimask.hub.bundle import MODELS, TOKENIZERS
from trimask.hub.defaults import Defaults
from trimask.optim.optimizer import OptimizerConfig
from trimask.train import checkpoint, record

STEPS, KILLS = 120, 12
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["trimask.train.loop", "pytest"])


def start(*arguments: object, limit: int | None = None) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=_program, args=([str(a) for a in arguments], limit))
    process.start()
    return process


def _program(arguments: list[str], limit: int | None) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with open(f"{arguments[0]}.out", "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.exit(toy_run.main(arguments))


def newest(run: Path) -> int:
    found = checkpoint.found(run / "checkpoints")
    return int(found[0].name.removeprefix("step-")) if found else 0


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = checkpoint.path(run / "checkpoints", step)
    # Copies: the loaded tensors are maps of files that some tests damage.
    return {k: v.clone() for n in ("model", "training") for k, v in load_file(folder / f"{n}.safetensors").items()}


def growing(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return folder.is_dir() and any(name.startswith(".step-") for name in os.listdir(folder))


def losses(run: Path) -> list[tuple]:
    return [(r["step"], r["loss"], r["losses"], r["cross_entropy"]) for r in record.read_metrics(run)]


def assert_same(one: Path, two: Path, step: int) -> None:
    a, b = tensors(one, step), tensors(two, step)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])]
    assert losses(one) == losses(two)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start(run, STEPS, 0.9)
    process.join(120)
    assert process.exitcode == 0, Path(f"{run}.out").read_text()
    return run


def test_kill_9_at_random_moments_changes_nothing(whole, tmp_path):
    rng = random.Random(0)
    run = tmp_path / "run"
    for _ in range(KILLS):
        target = newest(run) + rng.randint(1, 4)
        process = start(run, STEPS, 0.9)
        deadline = time.monotonic() + 60
        while newest(run) < target and time.monotonic() < deadline:
            time.sleep(0.003)
        time.sleep(rng.uniform(0, 0.04))
        assert process.is_alive(), Path(f"{run}.out").read_text()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = start(run, STEPS, 0.9)
    process.join(120)
    text = Path(f"{run}.out").read_text()
    assert process.exitcode == 0 and text.count("resuming") == KILLS, text
    assert_same(whole, run, STEPS)


def test_a_kill_while_a_checkpoint_is_written_loses_nothing(whole, tmp_path):
    run = tmp_path / "run"
    cut = 0
    for _ in range(6):
        before = newest(run)
        process = start(run, STEPS, 0.9)
        folder, deadline = run / "checkpoints", time.monotonic() + 60
        # A checkpoint grows under a name of its own and gets its real one at the end.
        while time.monotonic() < deadline and not (newest(run) > before and growing(folder)):
            pass
        process.kill()
        process.join()
        cut += growing(folder)
        assert all(checkpoint.verified(c) for c in checkpoint.found(folder))
    assert cut >= 3, "hardly any kill met a checkpoint that was being written"
    process = start(run, STEPS, 0.9)
    process.join(120)
    assert process.exitcode == 0 and not any((run / "checkpoints").glob(".step-*"))
    assert_same(whole, run, STEPS)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(whole, tmp_path, number, code):
    run = tmp_path / "run"
    process = start(run, STEPS, 0.9)
    while newest(run) < 6:
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.join(60)
    text = Path(f"{run}.out").read_text()
    assert process.exitcode == code and f"stopped by {number.name}" in text, text
    stopped = newest(run)
    assert f"step {stopped}," in text and stopped < STEPS
    process = start(run, STEPS, 0.9)
    process.join(60)
    assert process.exitcode == 0
    assert_same(whole, run, STEPS)


def test_a_full_disk_is_one_error_and_the_old_checkpoint_stays(tmp_path):
    run = tmp_path / "run"
    toy_run.run(run, 6, ema=0.9, optimizer=toy_run.MUON)
    before = tensors(run, 6)
    # The same run, longer, where no file may grow beyond 64 KiB.
    edited = json.loads((run / "config.json").read_text()) | {"budget.steps": 30}
    (run / "config.json").write_text(json.dumps(edited))
    process = start(run, 30, 0.9, limit=64 * 1024)
    process.join(60)
    lines = Path(f"{run}.out").read_text().splitlines()
    assert process.exitcode == TrainingError.exit_code, lines
    assert "cannot be written" in lines[-1] and "make room" in lines[-1] and "Traceback" not in "".join(lines)
    assert newest(run) == 6 and checkpoint.verified(checkpoint.path(run / "checkpoints", 6))
    assert all(torch.equal(before[k], v) for k, v in tensors(run, 6).items())


@pytest.mark.parametrize(
    "name, damage",
    [
        ("training.safetensors", "truncated"),
        ("model.safetensors", "changed"),
        ("model.safetensors", "missing"),
        ("training.json", "changed"),
        ("training.json", "truncated"),
        ("config.json", "changed"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys, name, damage):
    run = tmp_path / "run"
    toy_run.run(run, 8)
    expected = tensors(run, 8)
    file = checkpoint.path(run / "checkpoints", 8) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "truncated": lambda: file.write_bytes(data[: len(data) // 2]),
        "changed": lambda: file.write_bytes(data),
        "missing": file.unlink,
    }[damage]()
    toy_run.run(run, 8)
    said = capsys.readouterr().out
    assert f"step-00000008 is damaged: {name}" in said and "resuming" in said and "at step 6" in said
    assert all(torch.equal(expected[k], v) for k, v in tensors(run, 8).items())


@pytest.mark.parametrize("broken", [False, True])
def test_how_a_checkpoint_is_sampled_may_change_and_holds_on(tmp_path, capsys, broken):
    toy_run.run(tmp_path / "run", 8)
    before, last = (checkpoint.path(tmp_path / "run" / "checkpoints", n) for n in (6, 8))
    made = Defaults({"text": Settings(RandomOrder(steps=3))}, {"fast": {}})
    bundle.write_defaults(before, made)
    if broken:
        (before / "sampling.json").write_text("{")
    shutil.rmtree(last)
    toy_run.run(tmp_path / "run", 8)
    said = capsys.readouterr().out
    assert "damaged" not in said and "at step 6" in said
    assert bundle.read_defaults(last) == (Defaults() if broken else made)


def test_when_all_checkpoints_are_damaged_it_says_so(tmp_path):
    run = tmp_path / "run"
    toy_run.run(run, 4)
    for folder in checkpoint.found(run / "checkpoints"):
        (folder / "training.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"no checkpoint in .* is whole"):
        toy_run.run(run, 4)


def test_a_finished_run_is_finished(tmp_path, capsys):
    first = toy_run.run(tmp_path / "run", 4)
    again = toy_run.run(tmp_path / "run", 4)
    assert (again.step, again.tokens, again.complete, again.exit_code) == (first.step, first.tokens, True, 0)
    assert "done: step 4" in capsys.readouterr().out


def test_policies_for_an_existing_folder(tmp_path):
    run = tmp_path / "run"
    toy_run.run(run, 3)
    with pytest.raises(UsageError, match="on_existing=fail"):
        toy_run.run(run, 3, on_existing="fail")
    toy_run.run(run, 4, on_existing="new")
    assert newest(run) == 4 and newest(tmp_path / "run.1") == 3
    with pytest.raises(UsageError, match=r"budget\.steps: 4 -> 5; optimizer\.rate: .*on_existing=new"):
        toy_run.run(run, 5, optimizer=OptimizerConfig(rate=0.5))
    strange = tmp_path / "holiday"
    strange.mkdir()
    (strange / "photo.png").write_bytes(b"")
    with pytest.raises(UsageError, match="not empty and not a run"):
        toy_run.run(strange, 3)


def test_what_does_not_decide_the_weights_may_change(tmp_path):
    run = tmp_path / "run"
    toy_run.run(run, 4)
    before = tensors(run, 4)
    toy_run.run(run, 4, log_every=1, checkpoints=chz.replace(toy_run.config(run).checkpoints, every=1))
    assert all(torch.equal(before[k], v) for k, v in tensors(run, 4).items())


def test_a_folder_is_used_by_one_process(tmp_path):
    run = tmp_path / "run"
    process = start(run, 100_000, 0.0)
    while newest(run) < 1:
        time.sleep(0.01)
    with pytest.raises(TrainingError, match="in use by another process"):
        toy_run.run(run, 100_000)
    process.kill()
    process.join()


def test_old_checkpoints_go_and_named_ones_stay(tmp_path):
    run = tmp_path / "run"
    base = toy_run.config(run).checkpoints
    toy_run.run(run, 12, checkpoints=chz.replace(base, every=2, keep=2, keep_steps=(3, 4)))
    assert [p.name for p in checkpoint.found(run / "checkpoints")] == [
        f"step-{n:08d}" for n in (12, 10, 4, 3)
    ]  # fmt: skip


def test_as_a_program_errors_are_one_line(tmp_path):
    program = [sys.executable, toy_run.__file__, str(tmp_path / "run"), "0", "0"]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == UsageError.exit_code
    assert "budget.steps=0" in done.stderr and "Traceback" not in done.stderr


REAL = 24
SMALL = (
    *("budget.minutes=None", f"budget.steps={REAL}", "checkpoints.every=4", "log_every=1"),
    *("model.depth=2", "model.width=64", "data.rows=2", "data.workers=2", "dtype=bf16", "compile=off", "device=cpu"),
    *("validation.every=5", "validation.batches=2", "hooks.0.every=6", "hooks.0.steps=4"),
)
"""What makes the recipe of the shipped model a run of seconds: with workers, in bf16, with all that it does besides."""


def trimask(*arguments: object, out: Path) -> subprocess.Popen:
    """Start a command; what it says goes behind what is in `out`. It and its workers are a session of their own."""
    with out.open("a") as file:
        one = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "trimask", *map(str, arguments)]
        return subprocess.Popen(command, stdout=file, stderr=file, env=one, start_new_session=True)


def rest_of(sessions: list[int]) -> list[int]:
    """Processes of sessions that are still there, those apart that have ended and wait to be collected."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) in sessions and state != "Z":
            found.append(int(path.parent.name))
    return found


def scored(run: Path) -> list[tuple]:
    return [(r["step"], r["tokens"], r["bounds"]) for r in record.read_metrics(run, "validation")]


def samples(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in (run / "samples").rglob("*") if p.is_file()}


@pytest.fixture
def sessions() -> Iterator[list[int]]:
    """For the sessions that a test starts: what is left of them ends with it."""
    started: list[int] = []
    yield started
    for pid in rest_of(started):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_kill_9_of_the_command_that_trains_the_shipped_model_changes_nothing(tmp_path, sessions):
    out, folder = tmp_path / "out", MODELS / "nano" / TOKENIZERS
    made = ("prepare", "world:scenes?count=60", "--tokenizers", folder, "--out", tmp_path / "set", "--workers", 1)
    assert trimask(*made, out=out).wait(300) == 0, out.read_text()
    sets = ("--data", tmp_path / "set", "--validation", tmp_path / "set")

    def training(run: Path) -> subprocess.Popen:
        process = trimask("train", "nano", *sets, f"run={run}", *SMALL, out=out)
        sessions.append(process.pid)
        return process

    whole, run = tmp_path / "whole", tmp_path / "run"
    assert training(whole).wait(600) == 0, out.read_text()

    rng = random.Random(0)
    for _ in range(2):
        before, process = newest(run), training(run)
        deadline = time.monotonic() + 300
        while newest(run) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None and before < newest(run) < REAL, out.read_text()
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert training(run).wait(600) == 0, out.read_text()

    assert out.read_text().count("resuming") == 2, out.read_text()
    assert_same(whole, run, REAL)
    assert len(losses(run)) == REAL
    assert [step for step, *_ in scored(run)] == [5, 10, 15, 20, REAL] and scored(run) == scored(whole)
    assert len(samples(run)) == 4 * len(("pictures", "seven", "forty two", "texts")) and samples(run) == samples(whole)
    deadline = time.monotonic() + 10
    while rest_of(sessions) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not rest_of(sessions), "workers of a killed run outlive it"

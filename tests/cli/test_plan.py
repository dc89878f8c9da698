"""`trimask plan` as a command: what it takes and what it refuses."""

import json

import pytest


@pytest.fixture
def law(tmp_path):
    values = {"E": 1.5, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.37}
    ranges = {"params": [1e6, 2e8], "tokens": [1e7, 1e10], "flops": [1e14, 1e19]}
    target = {"values": values, "drawn": [values], "ranges": ranges, "runs": 60, "doubts": []}
    path = tmp_path / "law.json"
    content = {"count": "params", "targets": {"all": target}, "shares": {"text": 1.0}, "aspect": 128, "codes": {}}
    path.write_text(json.dumps(content))
    return path


def test_a_plan_is_printed_with_the_command_that_runs_it(trimask, law):
    done = trimask("plan", "--law", law, "--hours", 2, "--gpus", "8xh100", "model.mlp_ratio=3")
    assert done.code == 0, done.err
    said = {line.split()[0]: line for line in done.out.splitlines() if line.strip()}
    assert "8 x H100" in said["time"] and "2h00m" in said["time"]
    start = "run torchrun --standalone --nproc-per-node 8 -m trimask train tri model.mlp_ratio=3 "
    assert " ".join(said["run"].split()).startswith(start)
    # What is printed is a configuration.
    settings = [word for word in said["run"].split() if "=" in word]
    again = trimask("inspect", "tri", *settings, "--optimizer")
    assert again.code == 0 and again.out.splitlines()[0] in done.out


def test_hours_without_a_device_are_those_of_this_machine(trimask, law):
    done = trimask("plan", "--law", law, "--recipe", "study", "--hours", 3, "--mfu", "0.2")
    assert done.code == 0, done.err
    time = next(line for line in done.out.splitlines() if line.startswith("time"))
    assert "3h00m" in time and "20% of the" in time and "measured" in time and "1 x" in time


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--flops", "1e19", "--gpus", "8 H100"), 2, "write a number and a kind"),
        (("--flops", "-3"), 2, "--flops -3 must be positive"),
        (("--flops", "1e19", "--mfu", "2"), 2, "at most 1"),
        (("--flops", "1e19", "--unique", "text"), 2, "write modality=count"),
        (("--flops", "1e19", "--law", "none.json"), 3, "none.json"),
        (("--hours", "1", "--gpus", "2xhere"), 2, "there is one of this machine"),
        ((), 2, "say what there is"),
    ],
)
def test_what_cannot_be_is_one_line(trimask, law, arguments, code, says):
    made = trimask("plan", *(() if "--law" in arguments else ("--law", law)), *arguments)
    assert made.code == code and says in made.err and made.err.count("\n") == 1, made.err

"""`trimask study fit` on tables as people have them."""

import csv
import math

import numpy as np
import pytest


@pytest.fixture
def runs(tmp_path):
    """Sixty runs of six sizes whose truth is L = 1.8 + 480 N^-0.35 + 2100 D^-0.37, with half a percent of noise."""
    rng = np.random.default_rng(0)
    path = tmp_path / "runs.csv"
    with path.open("w") as file:
        lines = csv.writer(file)
        lines.writerow(["N", "D", "L"])
        for size in np.geomspace(1e7, 1e10, 6):
            for tokens in size * np.geomspace(2, 300, 10):
                loss = 1.8 + 480 * size**-0.35 + 2100 * tokens**-0.37
                lines.writerow([size, tokens, loss * math.exp(rng.normal(0, 0.005))])
    return path


NAMES = ("--params", "N", "--tokens", "D", "--loss", "L")


def test_a_table_of_ones_own_is_fitted(trimask, runs, tmp_path):
    options = ("--hold-out", 1, "--drop-highest", 2, "--bootstrap", 40, "--twins", 2, "--out", tmp_path / "out")
    made = trimask("study", "fit", runs, *NAMES, *options)
    assert made.code == 0, made.err
    of_fit = made.out[made.out.index("Values, 95 %") : made.out.index("2 tables for which")]
    values = {line.split()[0]: float(line.split()[1]) for line in of_fit.splitlines() if len(line.split()) == 4}
    assert values["alpha"] == pytest.approx(0.35, abs=0.03) and values["beta"] == pytest.approx(0.37, abs=0.03)
    said = " ".join(made.out.split())
    assert "Left out: the 2 highest losses, from" in said and "Held out, 10 losses" in said and "Doubtful" not in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert [page.count(f"<h2>{part}") for part in ("Question", "Design", "Findings", "Threats", "Command")] == [1] * 5
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"report.html", "fit.png", "errors.png"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "no column 'params'; there are: N, D, L"),
        ((*NAMES, "--law", "cubic"), "no law is called 'cubic'"),
        ((*NAMES, "--hold-out", 6), "6 of 6 sizes cannot be held out"),
        ((*NAMES, "--drop-highest", 60), "60 of 60 losses cannot be left out"),
        ((*NAMES, "--law", "repeated"), "unique"),
        ((*NAMES, "--law", "coupled", "--grid"), "the grid of starts is for the law `power`"),
        ((*NAMES, "--delta", 0), "--delta and --jobs must be positive"),
        ((*NAMES, "--grid", "--jobs", -2), "--delta and --jobs must be positive"),
    ],
)
def test_what_cannot_be_done_is_said(trimask, runs, tmp_path, more, says):
    made = trimask("study", "fit", runs, *more, "--out", tmp_path / "out")
    assert made.code in (2, 3) and says in made.err
    assert "Traceback" not in made.err

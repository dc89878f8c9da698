"""Studies: tables that survive a kill, plans that ask for what they need, fits that find what was put in."""

import contextlib
import dataclasses
import io
import json
import math
import shutil
from collections.abc import Callable, Sequence

import chz
import numpy as np
import pyarrow.parquet
import pytest
import torch
from rich.console import Console

from trimask import studies
from trimask.core.errors import DataError, TrainingError, UsageError
from trimask.core.rng import generator
from trimask.studies import fits, table
from trimask.studies.base import Report, Study, cell_of
from trimask.studies.batch import Batch, knee
from trimask.studies.conduct import conduct
from trimask.studies.coordinates import Coordinates
from trimask.studies.executors import Here, Processes
from trimask.studies.horizon import KAPPA, Horizon
from trimask.studies.modules import Modules, space
from trimask.studies.table import Cell, Row
from trimask.studies.training import configuration, work
from trimask.studies.transfer import Transfer
from trimask.train.config import Budget, TrainConfig

CELL = Cell(64, 2, 8, 1000, 2**-6)


@chz.chz
class Odd(Study):
    """Three rates; the run of the second has one setting more."""

    bad: tuple[str, str] | None = None

    def plan(self, base: TrainConfig, rows: Sequence[Row]) -> list[Cell]:
        odd = (self.bad,) if self.bad else ()
        return [cell_of(base, rate=r, variant=odd if r == 0.02 else ()) for r in (0.01, 0.02, 0.04)]

    def expected(self, base: TrainConfig) -> list[Cell]:
        return self.plan(base, ())

    def report(self, base: TrainConfig, rows: Sequence[Row]) -> Report:
        return Report("Odd", [f"{len(rows)} rows"])


@contextlib.contextmanager
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def finished(study: Study, base: TrainConfig, loss: Callable[[Cell], float], limit: int = 10**4) -> list[Row]:
    """The rows of a whole study whose runs end with a loss that is a function of their cell."""
    rows: list[Row] = []
    while todo := [c for c in study.plan(base, rows) if c not in table.known(rows)]:
        rows += [Row(c, loss(c), {}, 0, 0.0) for c in dict.fromkeys(todo)]
        assert len(rows) <= limit
    return rows


def noise(*key: object) -> float:
    return float(generator("noise", repr(key)).normal())


def test_rows_come_back_and_half_a_line_is_written_over(tmp_path):
    rows = [
        Row(CELL, 2.5, {"text": 1.0}, 10, 1.0),
        Row(chz_cell(seed=1, variant=(("a.b", 0.5),)), math.inf, {}, 0, 0.0),
    ]
    table.append(tmp_path, rows[0])
    with (tmp_path / table.TABLE).open("a") as f:
        f.write('{"cell": {"width"')
    assert table.read(tmp_path) == rows[:1]
    table.append(tmp_path, rows[1])
    assert table.read(tmp_path) == rows


def chz_cell(**changes) -> Cell:
    return Cell(**{**vars(CELL), **changes})


def test_a_line_that_is_no_row_is_named(tmp_path):
    table.append(tmp_path, Row(CELL, 2.5, {}, 10, 1.0))
    with (tmp_path / table.TABLE).open("a") as f:
        f.write('{"cell": 3}\n')
    with pytest.raises(DataError, match=r"table\.jsonl, line 2 is not a row"):
        table.read(tmp_path)


def test_cells_that_differ_have_keys_that_differ():
    changes = [{}, {"seed": 1}, {"rate": 2**-5}, {"scaled": False}, {"variant": ((KAPPA, 1.0),)}, {"steps": 999}]
    changes += [{"variant": ((KAPPA, 2.0),)}, {"parametrization": "mup"}, {"rows": 4}, {"width": 128}, {"depth": 4}]
    assert len({chz_cell(**c).key for c in changes}) == len(changes)


def test_every_study_is_found_by_its_name():
    assert [studies.study(name).__name__.lower() for name in studies.STUDIES] == list(studies.STUDIES)


def test_a_seed_does_the_same_to_all_settings():
    """Settings are compared on common seeds; one with fewer is freed of what its seeds do."""
    points = {1.0: {0: 2.0, 1: 3.0}, 2.0: {0: 1.9, 1: 2.9}, 4.0: {0: 1.95}}
    assert fits.best(points) == 2.0
    assert fits.adjusted(points) == pytest.approx({1.0: 2.5, 2.0: 2.4, 4.0: 2.45})
    mean, error, seeds = fits.compared(points[1.0], points[2.0])
    assert (mean, error, seeds) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-12), 2)
    assert fits.spread(list(points.values())) == pytest.approx(math.sqrt(0.5))
    assert "0.7071 nats" in fits.seed_noise(list(points.values()))
    assert "not known" in fits.seed_noise([{0: 2.0}])


def test_slopes_are_those_of_a_power_law():
    rows = [
        Row(chz_cell(width=w, seed=s), 0.0, {"a": 3 * w**0.7, "b": 1.0}, 0, 0.0) for w in (8, 16, 64) for s in (0, 1)
    ]
    assert fits.slopes(rows, "width") == pytest.approx({"a": 0.7, "b": 0.0})


def test_the_knee_lies_where_the_loss_has_risen_by_a_hundredth():
    """Whatever seeds add to all batches, and however many of the batches are beyond it."""

    def basin(spread: float, most: int = 6, draw: int = 0) -> dict[float, dict[int, float]]:
        at = {2.0**n: 2.0 + max(0.0, 0.1 * (n - 3)) for n in range(most + 1)}
        return {b: {s: loss + 0.1 * s + spread * noise(draw, b, s) for s in range(3)} for b, loss in at.items()}

    exact = basin(0.0)
    place, low, high = knee(exact, 8.0)
    # Floor 2.1, the mean over seeds: a rise of 0.021 lies 0.21 of the way from 8 to 16.
    assert (place, low, high) == pytest.approx((8 * 2**0.21,) * 3)
    assert knee(basin(0.0, 10), 8.0) == pytest.approx((place,) * 3)
    drawn = [knee(basin(0.005, draw=n), 8.0) for n in range(12)]
    assert sum(low <= place <= high < 2 * low for _, low, high in drawn) >= 9
    broken = {**exact, 32.0: dict.fromkeys(range(3), math.inf)}
    assert (knee(broken, 8.0) or [0])[0] == pytest.approx(place)
    flat = {b: dict.fromkeys(range(3), 2.0) for b in exact}
    assert knee(flat, 8.0) is None and knee(exact, 0.5) is None
    assert knee({b: {0: of[0]} for b, of in exact.items()}, 8.0) is None


def test_transfer_widens_a_grid_whose_best_is_at_its_end_and_repeats_its_bottom(base):
    """completep: best at twice the grid's last rate, everywhere; standard: it falls with the width."""

    def loss(c: Cell) -> float:
        best = 2 if c.parametrization == "completep" else -math.log2(c.width / 16)
        return (math.log2(c.rate / base.optimizer.rate) - best) ** 2 + noise(c.seed)

    study = Transfer(widths=(16, 64), depths=(2, 4), powers=(-1, 0, 1))
    rows = finished(study, base, loss)
    shape = [r.cell for r in rows if (r.cell.width, r.cell.parametrization) == (64, "completep")]
    tried = sorted({round(math.log2(c.rate / base.optimizer.rate)) for c in shape})
    assert tried == [-1, 0, 1, 2, 3]
    for power in (1, 2, 3):
        assert sum(c.rate == base.optimizer.rate * 2.0**power for c in shape) == 3
    found = {tuple(line[:3]): line[4] for line in study.report(base, rows).tables[0][2]}
    assert found["completep", "64", "2"] == "+0" and found["standard", "64", "2"] == "-2"
    assert set(study.report(base, rows).plots) == {
        f"{a}-{p}" for a in ("width", "depth") for p in study.parametrizations
    }


def test_the_search_of_modules_finds_what_the_noise_of_seeds_hides(base):
    """A bowl in log space below seed effects ten times its depth: the centre moves to its bottom."""
    keys = space(base)
    target = {"optimizer.multipliers.head": 0.5, "model.attention_branch": 2.0}
    study = Modules(rounds=6, pairs=8)

    def loss(c: Cell) -> float:
        given = dict(c.variant) or dict.fromkeys(target, 1.0)
        bowl = sum(0.1 * math.log(given[k] / v) ** 2 for k, v in target.items())
        return 3 + bowl + noise(c.seed) + 0.001 * noise(c.seed, c.variant)

    rows = finished(study, base, loss)
    assert len(rows) == 6 * 16 + 8
    report = study.report(base, rows)
    after = {line[0]: float(line[2]) for line in report.tables[0][2]}
    assert set(after) == set(keys)
    assert after["optimizer.multipliers.head"] == pytest.approx(0.5, rel=0.4)
    assert after["model.attention_branch"] == pytest.approx(2.0, rel=0.4)
    assert "better than the start by 0.0" in report.findings[0]


def test_batches_of_a_horizon_have_the_same_tokens(base):
    study = Batch(powers=(-2, -1, 0, 1), horizons=(1, 4), seeds=2)
    assert study.batches(base, 1) == {1: 40, 2: 20, 4: 10, 8: 5}
    assert study.batches(base, 4) == {4: 40, 8: 20, 16: 10, 32: 5}  # up to as few steps
    assert len(study.plan(base, ())) == 2 * (4 * 2 + 4)
    # A batch that does not divide the horizon makes it a little longer, for all batches.
    assert Batch(powers=(-1, 0, 2), horizons=(1,)).batches(base, 1) == {2: 24, 4: 12, 16: 3}
    odd = chz.replace(base, data=chz.replace(base.data, rows=3))
    for home, power in ((base, -3), (odd, -1)):
        with pytest.raises(UsageError, match=rf"2\^{power}"):
            Batch(powers=(power, 0, 1)).plan(home, ())
    with pytest.raises(UsageError, match="powers of two"):
        Batch(horizons=(1, 3))
    with pytest.raises(UsageError, match="add bases"):
        Batch().plan(chz.replace(base, bases=()), ())


def test_batch_reports_where_the_loss_leaves_its_floor(base):
    study = Batch(powers=(-2, -1, 0, 1, 2, 3), horizons=(1, 4), seeds=3)
    base = chz.replace(base, budget=Budget(steps=64))

    def loss(cell: Cell) -> float:
        # Too few steps cost, whatever the horizon; without the rule batches beside the base's cost too.
        late = 0.0 if cell.steps >= 32 else 0.3 * math.log2(32 / cell.steps)
        off = 0.0 if cell.scaled else 0.1 * abs(math.log2(cell.rows / 4))
        return 3.0 + late + off + 0.1 * noise(cell.seed) + 0.002 * noise(cell)

    report = study.report(base, finished(study, base, loss))
    text = " ".join(report.findings)
    steps = {h: int(text.split(f"Horizon {h}: ")[1].split("S_crit = ")[1].split(" ")[0]) for h in (1, 4)}
    # A rise of 0.3 a power of two has come to a hundredth of 3 at a tenth of the way.
    assert steps[1] == pytest.approx(32 * 2**-0.1, abs=1) and steps[4] == pytest.approx(32 * 2**-0.1, abs=1)
    ranges = [float(found.split("ranges over ")[1].split()[0]) for found in report.findings if "ranges over" in found]
    assert ranges[0] < 0.01 and ranges[1] > 0.15 and ranges[2] < 0.01
    assert {*report.plots} == {"horizon-1", "horizon-4"}


@pytest.mark.parametrize("gamma", [0.2, 0.44, 0.8])
def test_horizon_recovers_gamma_and_tries_it_on_a_longer_run(base, gamma: float):
    study = Horizon(seeds=3)

    def loss(c: Cell) -> float:
        best = math.log(0.7) - gamma * math.log(c.steps / 10)
        return 2 + 0.1 * (math.log(dict(c.variant)[KAPPA]) - best) ** 2 + noise(c.seed) + 1e-3 * noise(c)

    rows = finished(study, base, loss)
    losses = study.losses(base, rows)
    (found, at_base), (low, high) = study.fitted(losses), study.interval(losses)
    assert found == pytest.approx(gamma, abs=0.05) and low <= found <= high and high - low < 0.2
    assert at_base == pytest.approx(0.7, rel=0.05)
    longer = {dict(r.cell.variant)[KAPPA] for r in rows if r.cell.steps == 80}
    assert min(abs(math.log(k / (0.7 * 8**-gamma))) for k in longer) < 0.1
    assert any(line.startswith("Held out, m_D = 8") for line in study.report(base, rows).findings)


def test_a_cell_is_trained_for_what_it_says(base, tmp_path):
    cell = cell_of(base, width=32, rows=8, rate=0.01, seed=3)
    config = configuration(base, cell, tmp_path)
    assert (config.model.width, config.rows, config.passes, config.seed, config.data.seed) == (32, 8, 2, 3, 3)
    row = work(config, cell)
    assert row and row.cell == cell and row.loss == pytest.approx(row.values["text"]) and row.tokens > 0
    assert work(config, cell) == row  # from its last checkpoint, as after a kill


def test_a_run_that_diverges_is_a_result(base, tmp_path):
    cell = cell_of(base, rate=1e30)
    row = work(configuration(base, cell, tmp_path), cell)
    assert row and row.loss == math.inf


def test_a_study_is_run_in_processes_reported_and_not_run_twice(base, tmp_path):
    study = Coordinates(widths=(16, 32), depths=(2, 4), seeds=1, steps=2, parametrizations=("completep",))
    said = io.StringIO()
    assert conduct(study, base, tmp_path, Console(file=said, width=200))
    rows = table.read(tmp_path)
    assert {(r.cell.width, r.cell.depth) for r in rows} == {(16, 2), (32, 2), (16, 4)}
    assert all(
        {"activation/stream/2", "change/logits/2", "update/mlp_out/1", "update/head/2"} <= {*r.values} for r in rows
    )
    assert "core-hours" in said.getvalue() and (tmp_path / "width-completep.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64" in page and "update/attention_in" in page
    began = json.loads((tmp_path / "study.json").read_text())
    assert began["study"] == "Coordinates" and "command" not in began["environment"]

    (tmp_path / "table.jsonl").write_text((tmp_path / "table.jsonl").read_text().split("\n")[0] + "\n")
    assert conduct(chz.replace(study, executor=Processes(jobs=1)), base, tmp_path, Console(file=io.StringIO()))
    assert len(table.read(tmp_path)) == 3
    assert not list((tmp_path / "runs").iterdir())
    with pytest.raises(UsageError, match=r"seed=0, not 1"):
        conduct(study, chz.replace(base, seed=1), tmp_path, Console(file=io.StringIO()))


def test_runs_that_fail_are_tried_again_told_and_left_out_only_if_asked(base, tmp_path):
    """One rate of three cannot be trained: its tokenizer is not there."""
    said = io.StringIO()
    broken = Odd(bad=("tokenizers", str(tmp_path / "none")), executor=Here(), retries=2)
    with pytest.raises(TrainingError, match=r"1 runs failed: ArtifactError.*The same command tries them again"):
        conduct(broken, base, tmp_path / "study", Console(file=said, width=200))
    assert said.getvalue().count("failed, tried again") == 2
    rows = table.read(tmp_path / "study")
    assert [bool(r.failure) for r in rows].count(True) == 1 and len(rows) == 3
    held = pyarrow.parquet.read_table(tmp_path / "study" / table.PARQUET).to_pydict()
    assert {*held} >= {"run", "width", "loss", "failure", "loss.text", "error.text", "processed.text", "unique.text"}
    assert [value is None for value in held["loss"]].count(True) == 1
    sizes = zip(*(held[k] for k in ("loss", "flops", "params", "body")), strict=True)
    assert all(flops > 0 and params > body > 0 for loss, flops, params, body in sizes if loss is not None)
    # What is finished stays; a cause that is mended is seen by the same command.
    assert conduct(chz.replace(broken, partial=True, retries=0), base, tmp_path / "study", Console(file=said))
    assert "2 runs, 1 more failed" in said.getvalue()
    shutil.copytree(base.tokenizers[0], tmp_path / "none")
    assert conduct(broken, base, tmp_path / "study", Console(file=io.StringIO()))
    assert [r.failure for r in table.read(tmp_path / "study")] == ["", "", ""]


@pytest.mark.parametrize("executor", [Here(), Processes(jobs=2)], ids=["here", "processes"])
def test_rows_do_not_depend_on_who_ran_them(base, tmp_path, executor):
    study = Odd(executor=executor)
    assert conduct(study, base, tmp_path, Console(file=io.StringIO()))
    with one_thread():
        expected = [work(configuration(base, cell, tmp_path / "again"), cell) for cell in study.plan(base, ())]
    found = table.known(table.read(tmp_path))
    assert [dataclasses.replace(found[row.cell], seconds=row.seconds) for row in expected if row] == expected


def test_updates_of_the_probe_are_those_of_the_weights(base):
    """What a changed matrix adds is the product with its change; a head that has not moved adds nothing."""
    import torch

    from trimask.data.stream import Stream
    from trimask.model.transformer import Transformer
    from trimask.studies.coordinates import Probe, rms

    assert base.validation
    held_out = next(iter(Stream(base.validation.data, base.model.vocabulary))).masked
    model = Transformer(base.model)
    probe = Probe(model, held_out)
    with torch.no_grad():
        for block in model.blocks:
            block.get_submodule("mlp.down").weight.mul_(1.1)
    before = {n: p.clone() for n, p in model.named_parameters()}
    read = probe.read()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert read["update/head"] == read["update/attention_in"] == 0.0 < read["update/mlp_out"]
    assert read["update/mlp_out"] == pytest.approx(read["activation/mlp"] / 11, rel=1e-4)
    assert rms([torch.ones(3), torch.zeros(1)]) == pytest.approx(np.sqrt(0.75))


def test_the_update_of_places_is_that_of_the_codes_on_the_canvas():
    import torch

    from tests.train import toy_run
    from trimask.model.transformer import Transformer
    from trimask.studies.coordinates import Probe, rms

    model, masked = Transformer(toy_run.config("unused").model), toy_run.ToySource(rows=12).batch(0).masked
    probe = Probe(model, masked)
    place = model.embedding.place
    with torch.no_grad():
        before = place(masked.canvas, model.embedding.token.pieces(), torch.float32)
        for p in place.parameters():
            p.mul_(1.1)
    read = probe.read()
    assert read["update/place"] == pytest.approx(0.1 * rms([before]), rel=1e-4) and read["update/head"] == 0.0

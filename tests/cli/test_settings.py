"""What is said of a run before it starts: derived settings, where they come from, and what to beware of."""

import pytest


def lines(out: str) -> dict[str, str]:
    """Lines by their first word, those that share it one behind the other."""
    found: dict[str, str] = {}
    for line in out.splitlines():
        if line.strip():
            name = line.split()[0]
            found[name] = f"{found[name]} {line}" if name in found else line
    return found


def test_one_dial_gives_every_setting(trimask):
    made = trimask("inspect", "tri", "model.depth=12", "budget.tokens=50e9", "batch.rows=512", "--optimizer")
    assert made.code == 0, made.err
    said = lines(made.out)
    assert "12 blocks, width 1536 = aspect 128 x depth" in said["size"] and "12 heads of 128" in said["size"]
    assert "m_N = 12, m_L = 1.5" in said["base"] and "arXiv 2512.22382" in said["base"]
    assert "512 rows of 512 in 64 passes of 8: m_B = 256" in said["batch"]
    assert "50G tokens" in said["horizon"] and "as at the base point" in said["horizon"]
    assert "gamma = 0.48 (" in said["kappa"] and "S_crit" in said["critical"]
    assert "docs/studies" in said["settings"] and "warm-up 5%" in said["schedule"]
    # So long a run was never measured, and that is said.
    assert "gamma was measured up to 8" in said["caution"]


@pytest.mark.parametrize(
    "settings, says",
    [
        (("batch.rows=100000",), "choose batch.rows from"),
        (("budget.tokens=20M",), "choose batch.rows=8"),
        (("budget.tokens=2M",), "train longer"),
        (("batch.kappa=100",), "kappa=100 is outside [0.0625, 4]"),
        (("batch.kappa=100", "optimizer.beta1=0.99"), "kappa=100 is outside"),
        (("optimizer.beta1=0.5", "batch.kappa=1"), "beta1^kappa = 0.5^1 = 0.50 is below 0.6"),
    ],
)
def test_what_leaves_the_range_is_cautioned(trimask, settings, says):
    made = trimask("inspect", "tri", *settings, "--optimizer")
    assert made.code == 0 and says in lines(made.out)["caution"], made.out


def test_a_schedule_has_a_base_point_of_its_own(trimask):
    rates = []
    for schedule in ("Cosine", "WarmupStableDecay"):
        made = trimask("inspect", "study", f"schedule={schedule}", "--optimizer")
        assert made.code == 0 and lines(made.out)["base"].count(schedule), made.err
        rates.append(float(lines(made.out)["rate"].split()[1]))
    assert rates[1] == pytest.approx(0.6 * rates[0], rel=1e-3)


def test_a_dry_run_says_the_same_and_what_it_costs(trimask):
    settings = ("study", "model.depth=2", "budget.steps=2000")
    dry, looked = trimask("train", *settings, "--dry-run"), trimask("inspect", *settings, "--optimizer")
    assert dry.code == 0 and looked.code == 0
    assert looked.out.strip() in dry.out
    said = lines(dry.out)
    per_token, step, whole = (said["FLOPs"].split()[i] for i in (1, 4, 7))
    tokens = float(said["horizon"].split()[3].removesuffix("M")) * 1e6
    factor = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    number = {x: float(x[:-1]) * factor[x[-1]] for x in (per_token, step, whole)}
    assert number[whole] == pytest.approx(number[per_token] * tokens, rel=0.02)
    assert number[whole] == pytest.approx(2000 * number[step], rel=0.02)


def test_a_budget_of_minutes_says_what_was_timed(trimask):
    made = trimask("inspect", "study", "budget.steps=None", "budget.minutes=2", "dtype=fp32", "--optimizer")
    assert made.code == 0, made.err
    assert "2 minutes of" in lines(made.out)["horizon"] and "a step, " in lines(made.out)["horizon"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("tri", "bases.0.schedule=One", "bases.1.schedule=Two"), "no base point is stored for the schedule Cosine"),
        (("tri", "bases.0.gamma=2"), "gamma=2.0"),
        (("tri", "data.slots=-1"), "data.slots=-1 must be positive"),
        (("tri", "model.parametrization=best"), "Could not cast 'best' to Literal['completep', 'mup', 'standard']"),
        (("no-such",), "no recipe is called 'no-such'"),
    ],
)
def test_bad_settings_are_one_line(trimask, arguments, says):
    made = trimask("inspect", *arguments, "--optimizer")
    assert made.code == 2 and says in made.err and made.err.count("\n") == 1, made.err

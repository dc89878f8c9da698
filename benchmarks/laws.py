"""Speed of fits of scaling laws on a table as large as a field's.

    python benchmarks/laws.py                 # 10,000 rows: variable projection and 300 bootstraps
    python benchmarks/laws.py --grid          # the 4,500 starts of Hoffmann et al. on all cores, minutes

The table is made: sizes of 10^7 to 10^10 parameters, 1 to 300 tokens each, a known law, errors of half a percent.
"""

import argparse
import math
import time

import numpy as np

from trimask.core.compute import usable_cores
from trimask.studies.fitting import bootstrap, fit
from trimask.studies.laws import PowerLaw, Table, Units

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def table(rows: int) -> Table:
    rng = np.random.default_rng(0)
    params_R = np.exp(rng.uniform(math.log(1e7), math.log(1e10), rows))
    tokens_R = params_R * np.exp(rng.uniform(0, math.log(300), rows))
    loss_R = TRUTH["E"] + TRUTH["A"] * params_R ** -TRUTH["alpha"] + TRUTH["B"] * tokens_R ** -TRUTH["beta"]
    return Table(params_R, tokens_R, loss_R * np.exp(rng.normal(0, 0.005, rows)), np.arange(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--grid", action="store_true")
    asked = parser.parse_args()
    made = table(asked.rows)
    law = PowerLaw(Units.of(made))
    start = time.perf_counter()
    found = fit(law, made, law.grid() if asked.grid else None, jobs=usable_cores() if asked.grid else 1)
    print(f"{found.starts} starts, {found.reached:.0%} near the best: {time.perf_counter() - start:.1f} s")
    print(", ".join(f"{name} {value:.6g} (truth {TRUTH[name]:g})" for name, value in found.values.items()))
    if not asked.grid:
        start = time.perf_counter()
        bootstrap(found, made, asked.draws)
        print(f"{asked.draws} bootstraps: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()

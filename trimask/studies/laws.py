"""Scaling laws: the final loss as a function of a model's size, of its tokens, and of what those are made of.

A law is the logarithm of a loss, differentiable in a vector of parameters; `studies.fitting` finds the vector. Sizes
and tokens are taken relative to the middle of the table (`Units`): the coefficients then are losses, and hardly
depend on the exponents. Published coefficients are those of one parameter and one token (`values`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from torch import Tensor

from trimask.core.errors import DataError, UsageError

FLOPS = 6.0
"""Operations of a training per parameter and token (Kaplan et al. 2020)."""


@dataclass(frozen=True)
class Table:
    """Final losses, one a row."""

    params_R: np.ndarray
    """float64: parameters N. Which ones are counted is the caller's choice, the same in every row."""
    tokens_R: np.ndarray
    """float64: tokens D that the training processed."""
    loss_R: np.ndarray
    """float64, positive: nats (or bits) a token."""
    run_R: np.ndarray
    """Rows of one training have one label: a bootstrap draws trainings, not rows."""
    shares_RK: np.ndarray | None = None
    """float64: share of each of K sources in the tokens; rows sum to 1."""
    unique_R: np.ndarray | None = None
    """float64: different tokens there were; fewer than `tokens_R` where data were repeated."""
    target_R: np.ndarray | None = None
    """What the loss is of, for example a modality: the rows of one training differ in it."""

    def __len__(self) -> int:
        return len(self.loss_R)

    def rows(self, index: np.ndarray) -> "Table":
        """Some of the rows, by number or by a mask."""
        held = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{name: part[index] for name, part in held.items() if part is not None})

    def replaced(self, loss_R: np.ndarray) -> "Table":
        """The same trainings with other losses."""
        return replace(self, loss_R=loss_R)


def read(
    path: Path,
    params: str = "params",
    tokens: str = "tokens",
    loss: str = "loss",
    run: str | None = None,
    shares: Sequence[str] = (),
    unique: str | None = None,
    target: str | None = None,
) -> Table:
    """A table from a CSV or Parquet file, its columns by name; without `run` every row is a training of its own.

    Raises `DataError` that names the column, and the first row where a number is missing or not positive.
    """
    columns = _columns(path)

    def numbers(name: str, least: float = math.nextafter(0.0, 1.0)) -> np.ndarray:
        try:
            found = columns[name].to_numpy(zero_copy_only=False).astype(np.float64)
        except KeyError:
            raise DataError(f"{path} has no column {name!r}; there are: {', '.join(columns)}") from None
        except (TypeError, ValueError):
            raise DataError(f"{path}: the column {name!r} holds text, not numbers") from None
        if (bad := np.flatnonzero(~(np.isfinite(found) & (found >= least)))).size:
            raise DataError(f"{path}: row {bad[0] + 1} has {name}={found[bad[0]]:g}, which must be positive and finite")
        return found

    def labels(name: str) -> np.ndarray:
        if name not in columns:
            raise DataError(f"{path} has no column {name!r}; there are: {', '.join(columns)}")
        return columns[name].to_numpy(zero_copy_only=False)

    params_R, tokens_R, loss_R = numbers(params), numbers(tokens), numbers(loss)
    label_R = np.arange(len(loss_R)) if run is None else labels(run)
    shares_RK = np.stack([numbers(name, 0.0) for name in shares], 1) if shares else None
    if shares_RK is not None and (bad := np.flatnonzero(abs(shares_RK.sum(1) - 1) > 1e-3)).size:
        raise DataError(f"{path}: the shares of row {bad[0] + 1} sum to {shares_RK[bad[0]].sum():g}, not to 1")
    unique_R = None if unique is None else numbers(unique)
    target_R = None if target is None else labels(target)
    return Table(params_R, tokens_R, loss_R, label_R, shares_RK, unique_R, target_R)


def _columns(path: Path) -> Mapping[str, pa.ChunkedArray]:
    readers = {".csv": pyarrow.csv.read_csv, ".parquet": pyarrow.parquet.read_table}
    if path.suffix not in readers:
        raise UsageError(f"{path}: a table of runs is a .csv or a .parquet file")
    try:
        table = readers[path.suffix](path)
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except pa.ArrowInvalid as e:
        raise DataError(f"{path} cannot be read: {e}") from None
    return dict(zip(table.column_names, table.columns, strict=True))


@dataclass(frozen=True)
class Units:
    """The size and the number of tokens that count as 1."""

    params: float = 1.0
    tokens: float = 1.0

    @classmethod
    def of(cls, table: Table) -> "Units":
        """The geometric middle of a table."""
        return cls(*(float(np.exp(np.log(x_R).mean())) for x_R in (table.params_R, table.tokens_R)))


class Law(ABC):
    """log L of the rows of a table, from a vector of parameters (P,)."""

    @property
    @abstractmethod
    def bounds(self) -> list[tuple[float | None, float | None]]:
        """Least and greatest of each parameter, None where there is no limit."""

    @abstractmethod
    def columns(self, table: Table) -> dict[str, Tensor]:
        """What the law needs of a table, float64. Raises `UsageError` where the table has it not."""

    @abstractmethod
    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        """float64 (R,), from the `columns` of a table."""

    @abstractmethod
    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        """What is published: coefficients of one parameter and one token."""

    @abstractmethod
    def starts(self, table: Table) -> np.ndarray:
        """float64 (S, P): several vectors to descend from."""

    def predict(self, theta_P: np.ndarray, table: Table) -> np.ndarray:
        """float64 (R,): losses."""
        with torch.no_grad():
            return self.log_loss(torch.from_numpy(theta_P), self.columns(table)).exp().numpy()


EXPONENT = (0.0, 2.5)
FREE = (None, None)


@dataclass(frozen=True)
class PowerLaw(Law):
    """L = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022). The vector: log A, log B, log E, alpha, beta."""

    units: Units = field(default_factory=Units)

    @property
    def bounds(self):
        return [FREE, FREE, FREE, EXPONENT, EXPONENT]

    def columns(self, table: Table) -> dict[str, Tensor]:
        params_R, tokens_R = np.log(table.params_R / self.units.params), np.log(table.tokens_R / self.units.tokens)
        return {"params": torch.from_numpy(params_R), "tokens": torch.from_numpy(tokens_R)}

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        a, b, e, alpha, beta = theta_P
        return _log_sum(e, a - alpha * x["params"], b - beta * x["tokens"])

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        a, b, e, alpha, beta = theta_P.tolist()
        a, b = a + alpha * math.log(self.units.params), b + beta * math.log(self.units.tokens)
        return {"E": math.exp(e), "A": math.exp(a), "B": math.exp(b), "alpha": alpha, "beta": beta}

    def starts(self, table: Table) -> np.ndarray:
        return projected(table, self.units)

    def grid(self) -> np.ndarray:
        """The 4,500 starts of Hoffmann et al. (appendix D.3), which are said of one parameter and one token."""
        half = np.arange(0, 2.01, 0.5)
        axes = np.meshgrid(np.arange(0, 26, 5.0), np.arange(0, 26, 5.0), half - 1, half, half, indexing="ij")
        theta_SP = np.stack([axis.ravel() for axis in axes], 1)
        theta_SP[:, 0] -= theta_SP[:, 3] * math.log(self.units.params)
        theta_SP[:, 1] -= theta_SP[:, 4] * math.log(self.units.tokens)
        return theta_SP


@dataclass(frozen=True)
class Coupled(PowerLaw):
    """L = E + (A^(1/k) N^(-alpha/k) + B^(1/k) D^(-beta/k))^k: size and tokens limit each other; additive at k = 1.

    The form of Kaplan et al. 2020 has E = 0. One parameter more than `PowerLaw`, log k.
    """

    @property
    def bounds(self):
        return [*super().bounds, (-3.0, 3.0)]

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        a, b, e, alpha, beta, log_k = theta_P
        k = log_k.exp()
        return _log_sum(e, k * _log_sum((a - alpha * x["params"]) / k, (b - beta * x["tokens"]) / k))

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        return {**super().values(theta_P[:5]), "k": math.exp(theta_P[5])}

    def starts(self, table: Table) -> np.ndarray:
        return _times(projected(table, self.units), np.log([0.5, 1.0, 2.0]))


@dataclass(frozen=True)
class Repeated(PowerLaw):
    """`PowerLaw` of effective tokens: each repetition of U different tokens is worth less than the one before.

    D' = U + U r (1 - exp(-(D/U - 1) / r)) (Muennighoff et al. 2023, arXiv 2305.16264, section 3): after r repetitions
    more of them add little. One parameter more, log r.
    """

    @property
    def bounds(self):
        return [*super().bounds, (-3.0, 8.0)]

    def columns(self, table: Table) -> dict[str, Tensor]:
        if table.unique_R is None:
            raise UsageError("a law of repeated data needs the number of different tokens of each run (unique)")
        if (bad := np.flatnonzero(table.unique_R > table.tokens_R * (1 + 1e-9))).size:
            raise UsageError(f"row {bad[0] + 1} has more different tokens than it has tokens")
        return {**super().columns(table), "unique": torch.from_numpy(np.log(table.unique_R / self.units.tokens))}

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        a, b, e, alpha, beta, log_r = theta_P
        r, again_R = log_r.exp(), torch.expm1(x["tokens"] - x["unique"])
        effective_R = x["unique"] + torch.log1p(-r * torch.expm1(-again_R / r))
        return _log_sum(e, a - alpha * x["params"], b - beta * effective_R)

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        return {**super().values(theta_P[:5]), "r": math.exp(theta_P[5])}

    def starts(self, table: Table) -> np.ndarray:
        return _times(projected(table, self.units), np.log([3.0, 15.0, 75.0]))


@dataclass(frozen=True)
class Shared(PowerLaw):
    """A `PowerLaw` for each target, exponents in common. The vector: alpha, beta, then log A, log B, log E of each."""

    targets: tuple[str, ...] = ()

    @property
    def bounds(self):
        return [EXPONENT, EXPONENT, *([FREE] * (3 * len(self.targets)))]

    def columns(self, table: Table) -> dict[str, Tensor]:
        if table.target_R is None:
            raise UsageError("a law for several targets needs to know which one each loss is of (target)")
        number = {name: n for n, name in enumerate(self.targets)}
        if unknown := {*table.target_R.tolist()} - {*number}:
            raise UsageError(f"the law has no target {sorted(unknown)[0]!r}; it has: {', '.join(self.targets)}")
        return {**super().columns(table), "target": torch.tensor([number[t] for t in table.target_R.tolist()])}

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        alpha, beta = theta_P[:2]
        a_R, b_R, e_R = theta_P[2:].view(-1, 3)[x["target"]].unbind(1)
        return _log_sum(e_R, a_R - alpha * x["params"], b_R - beta * x["tokens"])

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        out = {"alpha": float(theta_P[0]), "beta": float(theta_P[1])}
        for name, (a, b, e) in zip(self.targets, theta_P[2:].reshape(-1, 3), strict=True):
            own = PowerLaw(self.units).values(np.array([a, b, e, *theta_P[:2]]))
            out |= {f"{key} {name}": own[key] for key in "EAB"}
        return out

    def starts(self, table: Table) -> np.ndarray:
        """The best exponents of each target alone, for all; coefficients of each target at these."""
        assert table.target_R is not None
        own = {name: table.rows(table.target_R == name) for name in self.targets}
        pairs = [projected(t, self.units)[0, 3:] for t in own.values()]
        pairs.append(np.mean(pairs, 0))
        at = [[at_exponents(t, self.units, *pair) for t in own.values()] for pair in pairs]
        return np.stack([np.concatenate([pair, *rows]) for pair, rows in zip(pairs, at, strict=True)])


@dataclass(frozen=True)
class Mixture(PowerLaw):
    """Of shares h of K sources (Shukor et al. 2025, arXiv 2507.09404), additive or joint.

    L = E + 1 / sum_i C_i h_i^g_i + A N^-alpha + B D^-beta; joint: A = (sum_i A_i h_i)^p and B = (sum_i B_i h_i)^q.
    The vector: log E, alpha, beta, log C (K), g (K), then log A and log B, or log A_i (K), p, log B_i (K), q.
    """

    sources: int = 2
    joint: bool = False
    count: int = 100
    """Random starts."""

    @property
    def bounds(self):
        k = self.sources
        rest = [*([FREE] * k), EXPONENT, *([FREE] * k), EXPONENT] if self.joint else [FREE, FREE]
        return [FREE, EXPONENT, EXPONENT, *([FREE] * k), *([EXPONENT] * k), *rest]

    def columns(self, table: Table) -> dict[str, Tensor]:
        if table.shares_RK is None or table.shares_RK.shape[1] != self.sources:
            raise UsageError(f"a law of mixtures of {self.sources} sources needs the share of each in every run")
        log_RK = np.log(np.maximum(table.shares_RK, SMALLEST))
        return {**super().columns(table), "shares": torch.from_numpy(log_RK)}

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        k, h_RK = self.sources, x["shares"]
        e, alpha, beta = theta_P[:3]
        c_K, g_K, rest = theta_P[3 : 3 + k], theta_P[3 + k : 3 + 2 * k], theta_P[3 + 2 * k :]
        if self.joint:
            a = rest[k] * torch.logsumexp(rest[:k] + h_RK, 1)
            b = rest[2 * k + 1] * torch.logsumexp(rest[k + 1 : 2 * k + 1] + h_RK, 1)
        else:
            a, b = rest
        bias_R = -torch.logsumexp(c_K + g_K * h_RK, 1)
        return _log_sum(e, bias_R, a - alpha * x["params"], b - beta * x["tokens"])

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        k, theta = self.sources, theta_P.tolist()
        of_params, of_tokens = theta[1] * math.log(self.units.params), theta[2] * math.log(self.units.tokens)
        out = {"E": math.exp(theta[0]), "alpha": theta[1], "beta": theta[2]}
        out |= {f"C{i}": math.exp(theta[3 + i]) for i in range(k)}
        out |= {f"g{i}": theta[3 + k + i] for i in range(k)}
        rest = theta[3 + 2 * k :]
        if not self.joint:
            return {**out, "A": math.exp(rest[0] + of_params), "B": math.exp(rest[1] + of_tokens)}
        for name, power, begin, unit in (("A", "p", 0, of_params), ("B", "q", k + 1, of_tokens)):
            exponent = rest[begin + k]
            out |= {f"{name}{i}": math.exp(rest[begin + i] + unit / max(exponent, 1e-9)) for i in range(k)}
            out[power] = exponent
        return out

    def starts(self, table: Table) -> np.ndarray:
        k, rng = self.sources, np.random.default_rng(0)
        a, b, e, alpha, beta = projected(table, self.units)[0]
        out = []
        for _ in range(self.count):
            own = [e + math.log(rng.uniform(0.3, 1.0)), alpha * rng.uniform(0.7, 1.4), beta * rng.uniform(0.7, 1.4)]
            own += [*(-e + rng.normal(0.5, 1.0, k)), *rng.uniform(0.1, 1.0, k)]
            for level in (a, b):
                own += [*(level + rng.normal(0, 0.5, k)), 1.0] if self.joint else [level + rng.normal(0, 0.3)]
            out.append(own)
        return np.array(out)


SMALLEST = 1e-6
"""A share of nothing counts as this: its logarithm is wanted."""


def _log_sum(*terms: Tensor) -> Tensor:
    return torch.logsumexp(torch.stack(torch.broadcast_tensors(*terms)), 0)


def _times(theta_SP: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Every vector with every value of one parameter more."""
    return np.concatenate([np.column_stack([theta_SP, np.full(len(theta_SP), value)]) for value in more])


STEEPEST, RESOLUTION, BLOCKS = 1.2, 48, 3


def projected(table: Table, units: Units) -> np.ndarray:
    """Nine vectors (9, 5) of a `PowerLaw` by variable projection, the best first.

    At fixed exponents the loss is linear in E, A and B, which follow by non-negative least squares of relative
    errors: five parameters become two (VPNLS, arXiv 2603.22339). Of a grid of both exponents the best of each of nine
    parts.
    """
    exponents = np.linspace(0, STEEPEST, RESOLUTION + 1)[1:]
    coefficients, error_XX = _at(table, units, exponents, exponents)
    size = RESOLUTION // BLOCKS
    corners = [(i, j) for i in range(0, RESOLUTION, size) for j in range(0, RESOLUTION, size)]
    blocks = [error_XX[i : i + size, j : j + size] for i, j in corners]
    places = [np.unravel_index(np.argmin(block), block.shape) for block in blocks]
    row, column = (np.array([c[n] + p[n] for c, p in zip(corners, places, strict=True)]) for n in (0, 1))
    order = np.argsort(error_XX[row, column])
    row, column = row[order], column[order]
    return np.column_stack([_logs(coefficients[row, column]), exponents[row], exponents[column]])


def at_exponents(table: Table, units: Units, alpha: float, beta: float) -> np.ndarray:
    """log A, log B and log E that fit best at these exponents."""
    return _logs(_at(table, units, np.array([alpha]), np.array([beta]))[0])[0, 0]


def _logs(coefficients: np.ndarray) -> np.ndarray:
    """Of E, A, B the logs of A, B, E; what is nothing becomes a thousandth of all."""
    floor = 1e-3 * coefficients.sum(-1, keepdims=True)
    return np.log(np.maximum(coefficients, floor))[..., [1, 2, 0]]


def _at(table: Table, units: Units, alpha_X: np.ndarray, beta_Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At every pair of exponents E, A and B, not negative, of least relative square error (X, Y, 3), and that error."""
    # Divided by the loss all errors are relative and the target is 1.
    one_R = 1 / table.loss_R
    of_params_XR = (table.params_R / units.params) ** -alpha_X[:, None] * one_R
    of_tokens_YR = (table.tokens_R / units.tokens) ** -beta_Y[:, None] * one_R
    x, y, rows = len(alpha_X), len(beta_Y), len(one_R)
    gram, right = np.empty((x, y, 3, 3)), np.empty((x, y, 3))
    gram[..., 0, 0], right[..., 0] = (one_R**2).sum(), one_R.sum()
    gram[..., 0, 1] = gram[..., 1, 0] = (of_params_XR @ one_R)[:, None]
    gram[..., 0, 2] = gram[..., 2, 0] = of_tokens_YR @ one_R
    gram[..., 1, 1], right[..., 1] = (of_params_XR**2).sum(1)[:, None], of_params_XR.sum(1)[:, None]
    gram[..., 2, 2], right[..., 2] = (of_tokens_YR**2).sum(1), of_tokens_YR.sum(1)
    gram[..., 1, 2] = gram[..., 2, 1] = of_params_XR @ of_tokens_YR.T
    best, error = np.zeros((x, y, 3)), np.full((x, y), np.inf)
    # The best of all subsets whose own solution is not negative is the solution with signs.
    for used in ((0, 1, 2), (0, 1), (0, 2), (1, 2), (0,), (1,), (2,)):
        inside = np.ix_(range(x), range(y), used, used)
        ridge = 1e-12 * np.eye(len(used))
        found = np.linalg.solve(gram[inside] + ridge, right[..., used][..., None])[..., 0]
        left = rows - (found * right[..., used]).sum(-1)
        better = (found >= 0).all(-1) & (left < error)
        error = np.where(better, left, error)
        full = np.zeros((x, y, 3))
        full[..., used] = found
        best = np.where(better[..., None], full, best)
    return best, error


@dataclass(frozen=True)
class Optimum:
    """What a power law says of a budget C = 6 N D: N = G (C/6)^a and D = (C/6)^b / G are the best (Hoffmann et al.)."""

    a: float
    b: float
    scale: float
    """G."""

    @classmethod
    def of(cls, values: Mapping[str, float]) -> "Optimum":
        alpha, beta = values["alpha"], values["beta"]
        ratio = alpha * values["A"] / (beta * values["B"])
        return cls(beta / (alpha + beta), alpha / (alpha + beta), ratio ** (1 / (alpha + beta)))

    def split(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for so many floating-point operations."""
        return self.scale * (flops / FLOPS) ** self.a, (flops / FLOPS) ** self.b / self.scale

    def tokens(self, params: float) -> float:
        """D*(N): tokens of the budget for which a model of this size is the best."""
        return (params / self.scale) ** (self.b / self.a) / self.scale

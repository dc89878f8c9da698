"""Scaling laws: the final loss as a function of a model's size, of its tokens, and of what those are made of.

A law is the logarithm of a loss, differentiable in a vector of parameters; `studies.fitting` finds the vector. Sizes
and tokens are taken relative to the middle of the table (`Units`): the coefficients then are losses, and hardly
depend on the exponents. Published coefficients are those of one parameter and one token (`values`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from trimask.core.errors import UsageError

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
    def names(self) -> list[str]:
        """What each parameter is called where it is published."""

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
    def names(self):
        return ["A", "B", "E", "alpha", "beta"]

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
        return {"E": _exp(e), "A": _exp(a), "B": _exp(b), "alpha": alpha, "beta": beta}

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

    The form of Kaplan et al. 2020 is that of E = 0 and k = beta. One parameter more than `PowerLaw`, log k.
    """

    @property
    def names(self):
        return [*super().names, "k"]

    @property
    def bounds(self):
        return [*super().bounds, (-3.0, 3.0)]

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        a, b, e, alpha, beta, log_k = theta_P
        k = log_k.exp()
        return _log_sum(e, k * _log_sum((a - alpha * x["params"]) / k, (b - beta * x["tokens"]) / k))

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        return {**super().values(theta_P[:5]), "k": _exp(theta_P[5])}

    def starts(self, table: Table) -> np.ndarray:
        return _times(projected(table, self.units), np.log([0.5, 1.0, 2.0]))


@dataclass(frozen=True)
class Repeated(PowerLaw):
    """`PowerLaw` of effective tokens: each repetition of U different tokens is worth less than the one before.

    D' = U + U r (1 - exp(-(D/U - 1) / r)): after r repetitions more of them add little. This is the half of the law of
    Muennighoff et al. 2023 (arXiv 2305.16264) that is about data; theirs also lets parameters beyond what U tokens
    need count less. U is at most D. One parameter more, log r.
    """

    @property
    def names(self):
        return [*super().names, "r"]

    @property
    def bounds(self):
        return [*super().bounds, (-3.0, 8.0)]

    def columns(self, table: Table) -> dict[str, Tensor]:
        if table.unique_R is None:
            raise UsageError("a law of repeated data needs the number of different tokens of each run (unique)")
        unique_R = np.minimum(table.unique_R, table.tokens_R)
        return {**super().columns(table), "unique": torch.from_numpy(np.log(unique_R / self.units.tokens))}

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        a, b, e, alpha, beta, log_r = theta_P
        r, again_R = log_r.exp(), torch.expm1(x["tokens"] - x["unique"])
        effective_R = x["unique"] + torch.log1p(-r * torch.expm1(-again_R / r))
        return _log_sum(e, a - alpha * x["params"], b - beta * effective_R)

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        return {**super().values(theta_P[:5]), "r": _exp(theta_P[5])}

    def starts(self, table: Table) -> np.ndarray:
        return _times(projected(table, self.units), np.log([3.0, 15.0, 75.0]))


@dataclass(frozen=True)
class Shared(PowerLaw):
    """A `PowerLaw` for each target, exponents in common. The vector: alpha, beta, then log A, log B, log E of each."""

    targets: tuple[str, ...] = ()

    @property
    def names(self):
        return ["alpha", "beta", *(f"{name} {target}" for target in self.targets for name in "ABE")]

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
    def names(self):
        return [*self.values(np.zeros(len(self.bounds)))]

    @property
    def bounds(self):
        k = self.sources
        rest = [*([FREE] * k), EXPONENT, *([FREE] * k), EXPONENT] if self.joint else [FREE, FREE]
        return [FREE, EXPONENT, EXPONENT, *([FREE] * k), *([EXPONENT] * k), *rest]

    def columns(self, table: Table) -> dict[str, Tensor]:
        if table.shares_RK is None or table.shares_RK.shape[1] != self.sources:
            raise UsageError(f"a law of mixtures of {self.sources} sources needs the share of each in every run")
        return {**super().columns(table), "shares": torch.from_numpy(np.asarray(table.shares_RK, float))}

    def log_loss(self, theta_P: Tensor, x: Mapping[str, Tensor]) -> Tensor:
        k, there_RK = self.sources, x["shares"] > 0
        h_RK = torch.where(there_RK, x["shares"], 1.0).log()
        e, alpha, beta = theta_P[:3]
        c_K, g_K, rest = theta_P[3 : 3 + k], theta_P[3 + k : 3 + 2 * k], theta_P[3 + 2 * k :]
        if self.joint:
            a = rest[k] * _log_sum_of(rest[:k] + h_RK, there_RK)
            b = rest[2 * k + 1] * _log_sum_of(rest[k + 1 : 2 * k + 1] + h_RK, there_RK)
        else:
            a, b = rest
        bias_R = -_log_sum_of(c_K + g_K * h_RK, there_RK)
        return _log_sum(e, bias_R, a - alpha * x["params"], b - beta * x["tokens"])

    def values(self, theta_P: np.ndarray) -> dict[str, float]:
        k, theta = self.sources, theta_P.tolist()
        of_params, of_tokens = theta[1] * math.log(self.units.params), theta[2] * math.log(self.units.tokens)
        out = {"E": _exp(theta[0]), "alpha": theta[1], "beta": theta[2]}
        out |= {f"C{i}": _exp(theta[3 + i]) for i in range(k)}
        out |= {f"g{i}": theta[3 + k + i] for i in range(k)}
        rest = theta[3 + 2 * k :]
        if not self.joint:
            return {**out, "A": _exp(rest[0] + of_params), "B": _exp(rest[1] + of_tokens)}
        for name, power, begin, unit in (("A", "p", 0, of_params), ("B", "q", k + 1, of_tokens)):
            exponent = rest[begin + k]
            out |= {f"{name}{i}": _exp(rest[begin + i] + unit / max(exponent, 1e-9)) for i in range(k)}
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


def _log_sum_of(terms_RK: Tensor, there_RK: Tensor) -> Tensor:
    """Over the sources that have a share; the others add nothing, whatever their exponent."""
    return terms_RK.masked_fill(~there_RK, -torch.inf).logsumexp(1)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _log_sum(*terms: Tensor) -> Tensor:
    return torch.logsumexp(torch.stack(torch.broadcast_tensors(*terms)), 0)


def _times(theta_SP: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Every vector with every value of one parameter more."""
    return np.concatenate([np.column_stack([theta_SP, np.full(len(theta_SP), value)]) for value in more])


STEEPEST, RESOLUTION, BLOCKS, RIDGE = 1.2, 48, 3, 1e-10


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
    # Columns of length 1, so that none drowns another.
    size, params_X, tokens_Y = (np.linalg.norm(c, axis=-1) for c in (one_R, of_params_XR, of_tokens_YR))
    one_R, of_params_XR, of_tokens_YR = one_R / size, of_params_XR / params_X[:, None], of_tokens_YR / tokens_Y[:, None]
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
        ridge = RIDGE * np.eye(len(used))
        found = np.linalg.solve(gram[inside] + ridge, right[..., used][..., None])[..., 0]
        left = rows - (found * right[..., used]).sum(-1)
        better = (found >= 0).all(-1) & (left < error)
        error = np.where(better, left, error)
        full = np.zeros((x, y, 3))
        full[..., used] = found
        best = np.where(better[..., None], full, best)
    best[..., 0] /= size
    best[..., 1] /= params_X[:, None]
    best[..., 2] /= tokens_Y
    return best, error


def published(values: Mapping[str, float], params: float, tokens: float) -> float:
    """The loss of a `PowerLaw` or, with k, a `Coupled` law, from the values of one parameter and one token."""
    k = values.get("k", 1.0)
    terms = ("A", "alpha", math.log(params)), ("B", "beta", math.log(tokens))
    of_size, of_tokens = (
        (math.log(values[a]) - values[b] * x) / k if values[a] > 0 else -math.inf for a, b, x in terms
    )
    return values["E"] + _exp(k * float(np.logaddexp(of_size, of_tokens)))


@dataclass(frozen=True)
class Optimum:
    """What a law says of a budget C = 6 N D: N = G (C/6)^a and D = (C/6)^b / G are the best (Hoffmann et al.).

    A coupled law is least where the sum inside its power k is, which is a power law of its own.
    """

    a: float
    b: float
    log_scale: float
    """log G."""

    @classmethod
    def of(cls, values: Mapping[str, float]) -> "Optimum":
        """Raises `UsageError` where the loss does not fall with size and tokens: there is no optimum then."""
        if not all(0 < values[name] < math.inf for name in ("A", "B", "alpha", "beta")):
            raise UsageError("no size is best where the loss does not depend on size and tokens both")
        alpha, beta = values["alpha"], values["beta"]
        k = values.get("k", 1.0)
        log_ratio = k * math.log(alpha / beta) + math.log(values["A"]) - math.log(values["B"])
        return cls(beta / (alpha + beta), alpha / (alpha + beta), log_ratio / (alpha + beta))

    @property
    def scale(self) -> float:
        """G."""
        return _exp(self.log_scale)

    def split(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for so many floating-point operations."""
        log_flops = math.log(flops / FLOPS)
        return _exp(self.log_scale + self.a * log_flops), _exp(self.b * log_flops - self.log_scale)

    def tokens(self, params: float) -> float:
        """D*(N): tokens of the budget for which a model of this size is the best."""
        return _exp((math.log(params) - self.log_scale) * self.b / self.a - self.log_scale)

"""What is evaluated: named sets of real items, and the sections that a set allows."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from trimask.core.errors import UsageError
from trimask.core.item import Item
from trimask.evaluation.generator import Generator
from trimask.evaluation.table import Findings


@dataclass(frozen=True)
class EvaluationSet:
    """Real items of one source. `items` are those of `split`; `train` serves baselines and judges."""

    name: str
    split: str
    items: Sequence[Item]
    train: Sequence[Item] = ()
    validation: Sequence[Item] = ()
    """Further real items, for the coverage that real items reach."""
    label: str = ""
    """Field of the labels (or "text") that holds the class; empty: found by what a judge knows."""
    tasks: tuple[str, ...] = ()
    """Tasks whose likelihood is measured."""
    title: str = ""
    """What its sections are called after; empty: the name, which also finds its judge."""

    def __post_init__(self):
        if not self.items:
            raise UsageError(f"evaluation set {self.name} has no items")

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that every item has."""
        return frozenset.intersection(*(frozenset(i.parts) for i in self.items))

    def field_of(self, names: Sequence[str]) -> str:
        """The label, or "text", whose values are all among `names`: where the classes stand.

        Raises `UsageError` where there is none.
        """
        known, first = set(names), self.items[0]
        for field in [self.label] if self.label else [*first.labels, "text"]:
            if all(self._value(i, field) in known for i in self.items):
                return field
        where = f"label {self.label!r}" if self.label else "no label"
        raise UsageError(
            f"set {self.name}: {where} holds the classes that its judge knows ({', '.join(sorted(known)[:5])}, ...); "
            "name the field of the class, or leave this judge out"
        )

    def classes(self, items: Sequence[Item], names: Sequence[str]) -> list[str]:
        """The class of each item, one of `names`."""
        return self.values(items, self.field_of(names))

    def values(self, items: Sequence[Item], field: str) -> list[str]:
        """A label of each item, or its text, as strings; empty where it has none."""
        return [self._value(i, field) for i in items]

    @staticmethod
    def _value(item: Item, field: str) -> str:
        return str(item.labels[field] if field in item.labels else item.parts.get(field, ""))


class Section(ABC):
    """One part of an evaluation: small enough to be repeated whole when it was interrupted.

    A subclass is a dataclass with the set in `data`, and says in `what` what is asked of the model.
    """

    data: EvaluationSet
    what: str

    @property
    def name(self) -> str:
        return f"{self.data.title or self.data.name}: {self.what}"

    @property
    def split(self) -> str:
        return self.data.split

    @abstractmethod
    def run(self, generator: Generator, seed: int) -> Findings:
        """Ask the generator and grade its answers."""


def evenly(items: Sequence[Item], n: int) -> list[Item]:
    """n items at equal distances (all, where there are not more)."""
    if n < 1 or len(items) <= n:
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]

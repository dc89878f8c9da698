"""How a model is sampled when the caller does not say: `sampling.json` of a bundle.

    {
      "settings": {"image": {"sampler": {"name": "confidence", "steps": 32}, "guidance": 4.0}, ...},
      "presets": {"fast": {"text>image": {...}}, "best": {...}},
      "measured": {"text>image": {"metric": "all correct", ..., "fast": {"quality": 0.6, "passes": 16, ...}}},
      "spans": {"text": 64, "image>text": 32},
      "voice": "en-us"
    }

`settings` are keyed by modality, or by task where the task has one target ("speech>text"); the task
goes first. `presets` are other settings, by name, where `trimask tune` has found them; what it measured of them and
of `settings`, which are then the preset "balanced", is in `measured`. `spans` are the free lengths, in grid units, of a
target whose length nobody stated, by task or by kind. `voice` is the one that speaks when none is named.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np

from trimask.core.errors import ArtifactError, UsageError
from trimask.core.modality import Vocabulary
from trimask.diffusion import samplers
from trimask.diffusion.caching import SCOPES, Cache
from trimask.diffusion.samplers import Blockwise, Confidence, EntropyBounded, Phases, RandomOrder, Sampler
from trimask.diffusion.settings import Course, Number, Settings


class Overrides(TypedDict, total=False):
    """Sampling options of one call; what is left out comes from the bundle."""

    preset: str
    steps: int
    guidance: Number | str
    temperature: Number | str
    top_p: float
    top_k: int
    min_p: float
    repetition: float
    sampler: str | Sampler
    cache: str | Cache


def kebab(name: str) -> str:
    """RandomOrder -> random-order."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


SAMPLERS: Mapping[str, type[Sampler]] = {
    kebab(name): getattr(samplers, name)
    for name in samplers.__all__
    if isinstance(getattr(samplers, name), type)
    and issubclass(getattr(samplers, name), Sampler)
    and not inspect.isabstract(getattr(samplers, name))
}
"""Name on the command line and in `sampling.json` -> class."""

COURSES = ("guidance", "temperature")
"""Options that may change over the steps."""
BALANCED = "balanced"
"""The preset that is used where none is asked for."""

# Pictures and sound as measured on small models of the built-in world (dev/LOG.md), text as in LLaDA; a trained bundle
# brings its own.
_READING = Settings(Confidence(steps=32, counts="linear"), temperature=0.0)
STARTING: Mapping[str, Settings] = {
    "text": Settings(Blockwise(block=32, inner=Confidence(steps=32, counts="linear")), temperature=0.7),
    "image": Settings(EntropyBounded(bound=0.1, gumbel=4.0, steps=24), temperature=0.7, top_p=0.95, guidance=0.7),
    "audio": Settings(RandomOrder(steps=64), temperature=0.6, guidance=0.5),
    "image>text": _READING,
    "speech>text": _READING,
}
"""Modality or task -> settings of a model whose bundle has none."""


# What a causal model says of a position, it says of all of the position's tokens at once.
_LEFT_TO_RIGHT = Blockwise(block=1, inner=RandomOrder(steps=1))


def starting(vocabulary: Vocabulary) -> Mapping[str, Settings]:
    """`STARTING`, in the order that the vocabulary's models can be asked in."""
    return {k: replace(s, sampler=_LEFT_TO_RIGHT) for k, s in STARTING.items()} if vocabulary.causal else STARTING


@dataclass(frozen=True)
class Defaults:
    """Content of `sampling.json`."""

    settings: Mapping[str, Settings] = field(default_factory=lambda: dict(STARTING))
    presets: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    spans: Mapping[str, int] = field(default_factory=dict)
    voice: str | None = None

    def of(self, task: str, modality: str, overrides: Overrides) -> Settings:
        """Settings of one modality in one task, changed as the call asks."""
        preset = overrides.get("preset")
        if preset is not None and preset not in (BALANCED, *self.presets):
            raise UsageError(
                f"the model has no sampling preset {preset!r}; it has: {', '.join((BALANCED, *self.presets))}. "
                "`trimask tune` finds them"
            )
        own = self.presets.get(preset, {}) if preset else {}
        tables = [(table, name) for name in (task, modality) for table in (own, self.settings)]
        base = next((table[name] for table, name in tables if name in table), None)
        if base is None:
            raise UsageError(f"the model's sampling.json has no settings for {modality}; pass a sampler of your own")
        return adjusted(base, overrides)


def adjusted(base: Settings, overrides: Overrides) -> Settings:
    """`base` with the options of a call. Raises `UsageError` for a name or value that is not possible."""
    known = Overrides.__annotations__
    unknown = [k for k in overrides if k not in known]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is not a sampling option; there are: {', '.join(known)}")
    given: dict[str, Any] = {k: v for k, v in overrides.items() if v is not None and k != "preset"}
    given = {k: v.item() if isinstance(v, np.generic) else v for k, v in given.items()}
    for name in COURSES:
        if isinstance(given.get(name), str):
            given[name] = number(name, given[name])
    sampler = _chosen(base.sampler, given.pop("sampler", None))
    if isinstance(given.get("cache"), str):
        given["cache"] = _cache(given["cache"])
    steps = given.pop("steps", None)
    return replace(base, sampler=sampler if steps is None else with_steps(sampler, steps), **given)


def number(name: str, text: str) -> Number:
    """ "3" -> 3.0; "1:3" -> a course from 1 to 3; "3@0.2-0.8" -> one that is 0 outside of that part of the steps."""
    values, _, interval = text.partition("@")
    try:
        first, _, last = values.partition(":")
        begin, _, end = interval.partition("-")
        if not interval and not last:
            return float(first)
        where = {"begin": float(begin), "end": float(end), "outside": 0.0} if interval else {}
        return Course(float(first), float(last or first), **where)
    except ValueError as e:
        why = e if isinstance(e, UsageError) else "write a number, FIRST:LAST, or either with @BEGIN-END behind it"
        raise UsageError(f"{name} {text}: {why}") from None


def _chosen(base: Sampler, wanted: str | Sampler | None) -> Sampler:
    """A sampler given by name takes over the number of steps of the one it replaces."""
    if not isinstance(wanted, str):
        return wanted or base
    name, _, rest = wanted.partition(":")
    if name not in SAMPLERS:
        raise UsageError(f"no sampler is called {name!r}; there are: {', '.join(SAMPLERS)}")
    same = type(base) is SAMPLERS[name]
    made = base if same else SAMPLERS[name]()
    stated = dict(_stated(made, f"sampler {name}", part) for part in rest.split(",") if part)
    if len(rules := [name for name in made.exclusive if name in stated]) > 1:
        raise UsageError(f"the sampler {name}: {' and '.join(rules)} are two rules; give one")
    if rules:
        # The one that is given takes the place of the other.
        made = replace(made, **{f.name: f.default for f in dataclasses.fields(made) if f.name in made.exclusive})  # pyright: ignore[reportArgumentType]
    if isinstance(inner := stated.get("inner"), Sampler) and inner.adaptive:
        stated.setdefault("steps", 0)
    # Of a sampler that has 0 the canvas or the inner sampler decides.
    if not same and getattr(made, "steps", 0) and (steps := getattr(base, "steps", 0)):
        stated = {"steps": steps, **stated}
    return replace(made, **stated)  # pyright: ignore[reportArgumentType]


def _cache(text: str) -> Cache | None:
    """ "target:every=4" as a cache; none for "none"."""
    scope, _, rest = text.partition(":")
    if scope not in ("none", *SCOPES) or (scope == "none" and rest):
        raise UsageError(f"no cache is called {text!r}; there are: none, {', '.join(SCOPES)}")
    if scope == "none":
        return None
    return replace(Cache(scope), **dict(_stated(Cache(scope), "cache", part) for part in rest.split(",") if part))


def _stated(made: Sampler | Cache, what: str, part: str) -> tuple[str, Any]:
    """ "probability=0.8" as a field and its value; the value of `inner` is the name of a sampler."""
    key, _, text = part.partition("=")
    known = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}  # pyright: ignore[reportArgumentType]
    if key not in known:
        raise UsageError(f"the {what} has no setting {key!r}; it has: {', '.join(known) or 'none'}")
    value = known[key]
    try:
        if isinstance(value, bool):
            return key, {"true": True, "false": False}[text.lower()]
        if isinstance(value, Sampler):
            return key, SAMPLERS[text]()
        return key, type(value)(text)
    except (KeyError, ValueError):
        if isinstance(value, Sampler):
            raise UsageError(f"{part!r}: no sampler is called {text!r}; there are: {', '.join(SAMPLERS)}") from None
        raise UsageError(f"{part!r}: {key} of the {what} is a value as {value}") from None


def with_steps(sampler: Sampler, steps: int) -> Sampler:
    """The sampler with `steps` steps in all, or one a phase where it has more phases.

    One that takes as many as the model asks for takes no more than these; in phases, or where a sampler knows no
    steps, that is a `UsageError`.
    """
    if not isinstance(steps, int) or steps < 1:
        raise UsageError(f"steps must be at least 1, a whole number, got {steps!r}")
    if not hasattr(sampler, "steps") or (isinstance(sampler, Phases) and sampler.adaptive):
        raise UsageError(
            f"the sampler {kebab(type(sampler).__name__)} takes as many steps as the model asks for: leave steps out, "
            "or choose another sampler"
        )
    return replace(sampler, steps=steps)  # pyright: ignore[reportArgumentType, reportCallIssue]


def to_json(defaults: Defaults) -> dict[str, Any]:
    """What `from_json` reads."""
    presets = {name: _all_json(own) for name, own in defaults.presets.items()}
    rest = {"measured": dict(defaults.measured), "spans": dict(defaults.spans), "voice": defaults.voice}
    return {"settings": _all_json(defaults.settings), "presets": presets, **rest}


def settings_json(settings: Settings) -> dict[str, Any]:
    """An entry of `sampling.json`."""
    return {**dataclasses.asdict(settings), "sampler": _sampler_json(settings.sampler)}


def _all_json(settings: Mapping[str, Settings]) -> dict[str, Any]:
    return {name: settings_json(s) for name, s in settings.items()}


def _sampler_json(sampler: Sampler) -> dict[str, Any]:
    values = {f.name: getattr(sampler, f.name) for f in dataclasses.fields(sampler)}  # pyright: ignore[reportArgumentType]
    inner = {k: _sampler_json(v) if isinstance(v, Sampler) else v for k, v in values.items()}
    return {"name": kebab(type(sampler).__name__), **inner}


def from_json(values: Mapping[str, Any], where: str) -> Defaults:
    """Read `sampling.json`; `ArtifactError` names the file and the entry that does not fit."""
    if not isinstance(values, dict):
        raise ArtifactError(f"{where} must be an object with 'settings', not {type(values).__name__}")
    presets, measured = values.get("presets", {}), values.get("measured", {})
    tables = [values.get("settings"), measured, *(presets.values() if isinstance(presets, dict) else (presets,))]
    if not all(isinstance(table, dict) for table in tables):
        raise ArtifactError(f"{where}: 'settings', each of 'presets', and 'measured' must be objects with a key a task")
    settings = {k: settings_of(v, f"{where}, settings of {k!r}") for k, v in values["settings"].items()}
    presets = {
        name: {k: settings_of(v, f"{where}, preset {name}, settings of {k!r}") for k, v in own.items()}
        for name, own in presets.items()
    }
    spans = values.get("spans", {})
    if not isinstance(spans, dict) or not all(isinstance(n, int) and n > 0 for n in spans.values()):
        raise ArtifactError(f"{where}: 'spans' must be an object from task or kind to a positive length")
    return Defaults(settings, presets, measured, spans, values.get("voice"))


def settings_of(values: Any, where: str) -> Settings:
    """What `settings_json` gave. Raises `ArtifactError` that begins with `where`."""
    try:
        rest: dict[str, Any] = {k: v for k, v in values.items() if k != "sampler"}
        for name, of in {**dict.fromkeys(COURSES, Course), "cache": Cache}.items():
            if isinstance(rest.get(name), dict):
                rest[name] = of(**rest[name])
            elif isinstance(rest.get(name), str):
                rest[name] = _cache(rest[name]) if name == "cache" else number(name, rest[name])
        return Settings(_sampler(values["sampler"]), **rest)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ArtifactError(f"{where}: cannot be read: {e if isinstance(e, UsageError) else repr(e)}") from None


def _sampler(values: Mapping[str, Any]) -> Sampler:
    fields = {k: _sampler(v) if isinstance(v, dict) else v for k, v in values.items() if k != "name"}
    if values["name"] not in SAMPLERS:
        raise ValueError(f"no sampler is called {values['name']!r}; there are: {', '.join(SAMPLERS)}")
    kind = SAMPLERS[values["name"]]
    own = [f.name for f in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := [k for k in fields if k not in own]:
        raise ValueError(f"the sampler {values['name']} has no setting {unknown[0]!r}; it has: {', '.join(own)}")
    return kind(**fields)

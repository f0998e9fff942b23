"""The search space of `tune`: dotted keys of `params.yaml` and the values that they may take."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field, model_validator

from pipeline.core.params import PARAMS, UserError, read, validate, where

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

Plain = dict[str, Any]
Value = bool | int | float | str
S = TypeVar("S", bound=BaseModel)
STEPS = 100_000  # of a range at most: all are listed


class Domain(BaseModel, extra="forbid", frozen=True):
    """Values of one parameter: `choices`, or a range from `low` to `high`, whole numbers where both are."""

    low: int | float | None = Field(None, description="Smallest value.")
    high: int | float | None = Field(None, description="Largest value.")
    log: bool = Field(False, description="Sample the logarithm evenly.")
    step: int | float | None = Field(
        None, description="Of a range: only every so-manieth value from 'low' on."
    )
    points: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="Of a range: how many values a grid takes, evenly spaced, ends included.",
    )
    choices: tuple[Value, ...] = Field((), description="The values themselves.")
    when: dict[str, tuple[Value, ...]] = Field(
        default_factory=dict,
        description="Asked only where each of these tuned keys has one of the values; else what is given stays.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        if problem := self._misfit() or self._bad_step():
            raise ValueError(problem)
        return self

    def _misfit(self) -> str:
        """What is wrong with choices or range; empty where nothing is."""
        low, high = self.low, self.high
        if empty := [key for key, values in self.when.items() if not values]:
            return f"'when' gives no value of '{empty[0]}'"
        ranged = low is not None and high is not None
        if ranged == bool(self.choices) or (low is None) != (high is None):
            return "give either 'choices' or both 'low' and 'high'"
        if not ranged:
            extra = [name for name in ("log", "step", "points") if getattr(self, name)]
            return f"'{extra[0]}' is of a range, not of 'choices'" if extra else self._twice()
        assert low is not None
        assert high is not None
        if endless := [name for name in ("low", "high") if getattr(self, name) in (math.inf, -math.inf)]:
            return f"'{endless[0]}' ({getattr(self, endless[0])}) must be finite"
        if not low < high:
            return f"'low' ({low}) must be below 'high' ({high})"
        if self.log and low <= 0:
            return f"'low' ({low}) must be above 0 where 'log' is true"
        return ""

    def _twice(self) -> str:
        """Which choice is given twice; empty where none is."""
        for at, choice in enumerate(self.choices):
            if any(same(choice, each) for each in self.choices[:at]):
                return f"'choices' gives {choice!r} twice"
        return ""

    def _bad_step(self) -> str:
        if self.step is None:
            return ""
        if self.log or self.points:
            return f"'step' cannot go together with '{'log' if self.log else 'points'}'"
        if not 0 < self.step < math.inf:
            return f"'step' ({self.step}) must be above 0 and finite"
        parts = [Decimal(str(value)) for value in (self.low, self.high, self.step)]
        if (parts[1] - parts[0]) / parts[2] >= STEPS:
            return f"'step' ({self.step}) gives more than {STEPS} values; make it larger, or leave it out"
        if (parts[1] - parts[0]) % parts[2]:
            return (
                f"'high' ({self.high}) must be a whole number of steps ({self.step}) above 'low' ({self.low})"
            )
        return ""

    @property
    def whole(self) -> bool:
        """True for a range of whole numbers."""
        return all(isinstance(each, int) for each in (self.low, self.high, self.step or 0))

    def distribution(self) -> BaseDistribution:
        """What Optuna calls it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(self.low, self.high, self.log, self.step or 1)  # type: ignore[arg-type]
        return FloatDistribution(float(self.low), float(self.high), self.log, self.step)  # type: ignore[arg-type]

    def suggest(self, trial: Trial, name: str) -> Any:
        """Ask the trial for a value."""
        if self.choices:
            return trial.suggest_categorical(name, list(self.choices))
        if self.whole:
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)  # type: ignore[arg-type]
        return trial.suggest_float(name, float(self.low), float(self.high), step=self.step, log=self.log)  # type: ignore[arg-type]

    def at(self, share: float) -> Any:
        """The value at a share of the domain, from 0 to below 1; evenly spread shares give evenly spread values.

        >>> Domain(low=1, high=100, log=True).at(0.5), Domain(choices=("a", "b")).at(0.5)
        (8, 'b')
        """
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        assert self.low is not None
        assert self.high is not None
        if self.step:
            return self._stepped()[int(share * len(self._stepped()))]
        edge = 0.5 if self.whole else 0.0  # each whole number has as much room as the next
        value = self._between(self.low - edge, self.high + edge, share)
        return min(max(round(value) if self.whole else value, self.low), self.high)

    def grid(self) -> tuple[Any, ...]:
        """The values that a grid visits; none where a range says neither 'points' nor 'step'."""
        if self.choices or self.step:
            return self.choices or self._stepped()
        if not self.points:
            return ()
        assert self.low is not None
        assert self.high is not None
        shares = [at / (self.points - 1) for at in range(self.points)]
        values = [self._between(self.low, self.high, share) for share in shares]
        values = [min(max(value, self.low), self.high) for value in values]
        return tuple(dict.fromkeys(round(value) if self.whole else value for value in values))

    def _between(self, low: float, high: float, share: float) -> float:
        if self.log:
            return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        return low + share * (high - low)

    def _stepped(self) -> tuple[Any, ...]:
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
        kind = int if self.whole else float
        return tuple(kind(low + at * step) for at in range(int((high - low) / step) + 1))

    def takes(self, value: Value) -> bool:
        """True where this may be the value: one of the choices, of the steps, or a whole number of the range."""
        if self.choices or self.step:
            return any(same(value, each) for each in self.grid())
        assert self.low is not None
        assert self.high is not None
        return self.whole and type(value) is int and self.low <= value <= self.high

    def corners(self) -> tuple[Any, ...]:
        """The extreme values, to check against the parameter's own bounds."""
        return self.choices or (self.low, self.high)


def same(one: Value, other: Value) -> bool:
    """Equal, and no truth value taken for a number."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


Space = dict[str, Domain]


def override(section: S, key: str, values: Plain) -> S:
    """A copy of `section` (named `key`) with the dotted `values` that belong to it, validated anew.

    Raises:
        UserError: a key is unknown, or a value out of its parameter's bounds.
    """
    plain = section.model_dump()
    for dotted, value in values.items():
        head, *path = dotted.split(".")
        if head != key:
            continue
        node = plain
        for part in path[:-1]:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise UserError(
                    f"unknown key '{dotted}': '{dotted.rpartition('.')[0]}' holds a value and no keys"
                )
        node[path[-1]] = value
    return validate(type(section), plain, key)


def check(space: Space, sections: dict[str, BaseModel], path: Path = PARAMS) -> None:
    """Refuse a space that names an unknown parameter or leaves a parameter's bounds.

    Raises:
        UserError: one line for each wrong entry.
    """
    problems = []
    for dotted, domain in space.items():
        problem = _problem(dotted, domain, sections)
        if problem:
            text = read(path) if path.exists() else ""
            problems.append(f"{where(('tune', 'space', dotted), text, path)}: tune.space: {problem}")
    if problems:
        raise UserError("\n".join(problems))


def _problem(dotted: str, domain: Domain, sections: dict[str, BaseModel]) -> str:
    """What is wrong with one entry; empty where nothing is."""
    head = dotted.partition(".")[0]
    if head not in sections or "." not in dotted:
        return f"'{dotted}' cannot be tuned; expected {', '.join(f'{key}.<name>' for key in sections)}"
    for corner in domain.corners():
        try:
            override(sections[head], head, {dotted: corner})
        except UserError as error:
            return str(error).removeprefix(f"{PARAMS}: ")
    return ""

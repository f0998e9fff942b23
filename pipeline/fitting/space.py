"""The search space of `tune`: dotted keys of `params.yaml` and the values that they may take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field, model_validator

from pipeline.core.params import PARAMS, UserError, read, validate, where

if TYPE_CHECKING:
    from optuna import Trial

Plain = dict[str, Any]
S = TypeVar("S", bound=BaseModel)


class Domain(BaseModel, extra="forbid", frozen=True):
    """Values of one parameter: `choices`, or a range from `low` to `high`, whole numbers where both are."""

    low: int | float | None = Field(None, description="Smallest value.")
    high: int | float | None = Field(None, description="Largest value.")
    log: bool = Field(False, description="Sample the logarithm evenly.")
    choices: tuple[bool | int | float | str, ...] = Field((), description="The values themselves.")

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("give either 'choices' or both 'low' and 'high'")
        if ranged and not self.low < self.high:  # type: ignore[operator]
            raise ValueError(f"'low' ({self.low}) must be below 'high' ({self.high})")
        if self.log and ranged and self.low <= 0:  # type: ignore[operator]
            raise ValueError(f"'low' ({self.low}) must be above 0 where 'log' is true")
        return self

    def suggest(self, trial: Trial, name: str) -> Any:
        """Ask the trial for a value."""
        if self.choices:
            return trial.suggest_categorical(name, list(self.choices))
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def corners(self) -> tuple[Any, ...]:
        """The extreme values, to check against the parameter's own bounds."""
        return self.choices or (self.low, self.high)


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

"""What in `params.yaml` cannot go together: told by `fairlead check` and before anything is fitted; loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pipeline.fitting.guarantee import Breach, breaches

Values = Mapping[str, Any]  # sections by name, plain


class Rule(NamedTuple):
    """Two things that exclude each other, and the key to look at."""

    key: str
    broken: Callable[[Values], bool]
    message: str


def _get(values: Values, dotted: str, default: Any = None) -> Any:
    """A value by its dotted key; what is left out, or is no value of its kind, is the default."""
    node: Any = values
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return default if node is None else node


def _gan(values: Values) -> bool:
    return _get(values, "model.family") == "gan"


def _number(values: Values, dotted: str, default: float) -> float:
    found = _get(values, dotted, default)
    return found if isinstance(found, int | float) else default


def _processes(values: Values) -> float:
    return _number(values, "compute.processes", 1)


def _whole(key: str, broken: Callable[[Values], bool], value: str = "") -> Rule:
    """What cannot be trained in parts."""

    def in_parts(values: Values) -> bool:
        return _processes(values) > 1 and _get(values, "compute.strategy") == "fsdp" and broken(values)

    told = f"{key}{value} needs each process to hold the whole network, and compute.strategy is 'fsdp'; try 'ddp'"
    return Rule(key, in_parts, told)


RULES = (
    Rule(
        "train.batch_size",
        lambda v: 0 < _number(v, "train.batch_size", 0) < _processes(v),
        "train.batch_size is smaller than compute.processes, each of which needs a sample of every batch",
    ),
    _whole("model.family", _gan, " 'gan'"),
    _whole("train.l1", lambda v: _number(v, "train.l1", 0) > 0),
    _whole("train.ema", lambda v: _number(v, "train.ema", 0) > 0),
    _whole("train.unfreeze_every", lambda v: _number(v, "train.unfreeze_every", 0) > 0),
    _whole("train.precision", lambda v: _get(v, "train.precision") == "16-mixed", " '16-mixed'"),
    Rule(
        "train.accumulate",
        lambda v: _gan(v) and _get(v, "train.accumulate", 1) != 1,
        "train.accumulate adds up gradients of one network, and model.family 'gan' trains two in turn; set it to 1",
    ),
    Rule(
        "train.batch_size",
        lambda v: _gan(v) and _get(v, "train.batch_size") == 0,
        "train.batch_size: 0 asks for the largest that fits, and two players learn better from small ones; try 32",
    ),
    Rule(
        "compute.checkpoint_activations",
        lambda v: bool(_get(v, "compute.compile")) and bool(_get(v, "compute.checkpoint_activations")),
        "compute.checkpoint_activations and compute.compile exclude each other: a compiled network decides itself what "
        "it keeps; set one of them to false",
    ),
    Rule(
        "compute.compile",
        lambda v: bool(_get(v, "compute.compile")) and _processes(v) > 1,
        "compute.compile is for a training in one process, and compute.processes is more; set one of them back",
    ),
    Rule(
        "train.precision",
        lambda v: _get(v, "train.precision") == "16-mixed" and _get(v, "compute.accelerator") == "cpu",
        "train.precision '16-mixed' is for GPUs, and compute.accelerator is 'cpu'; use bf16-mixed or 32-true",
    ),
)


def contradictions(values: Values) -> list[Rule | Breach]:
    """The rules that plain values, such as a parsed `params.yaml`, break, those of privacy among them.

    >>> contradictions({"train": {"accumulate": 2}, "model": {"family": "cnn"}})
    []
    """
    return [*(rule for rule in RULES if rule.broken(values)), *breaches(values)]

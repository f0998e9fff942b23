"""What in `params.yaml` cannot go together: told by `fairlead check` and before anything is fitted; loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


def _private(values: Values) -> bool:
    return bool(_get(values, "train.privacy.epsilon", 0))


def _gan(values: Values) -> bool:
    return _get(values, "model.family") == "gan"


RULES = (
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
        "compute.compile",
        lambda v: _private(v) and bool(_get(v, "compute.compile")),
        "compute.compile and train.privacy exclude each other: gradients of single samples are taken of the plain "
        "network; set compute.compile: false",
    ),
    Rule(
        "compute.checkpoint_activations",
        lambda v: _private(v) and bool(_get(v, "compute.checkpoint_activations")),
        "compute.checkpoint_activations and train.privacy exclude each other: gradients of single samples come of "
        "activations that are kept; set compute.checkpoint_activations: false",
    ),
    Rule(
        "compute.checkpoint_activations",
        lambda v: bool(_get(v, "compute.compile")) and bool(_get(v, "compute.checkpoint_activations")),
        "compute.checkpoint_activations and compute.compile exclude each other: a compiled network decides itself what "
        "it keeps; set one of them to false",
    ),
    Rule(
        "train.batch_size",
        lambda v: _private(v) and _get(v, "train.batch_size") == 0,
        "train.batch_size: 0 and train.privacy exclude each other: the guarantee is of one batch size, and the largest "
        "that fits depends on the machine; give a number",
    ),
    Rule(
        "train.precision",
        lambda v: _get(v, "train.precision") == "16-mixed" and _get(v, "compute.accelerator") == "cpu",
        "train.precision '16-mixed' is for GPUs, and compute.accelerator is 'cpu'; use bf16-mixed or 32-true",
    ),
)


def contradictions(values: Values) -> list[Rule]:
    """The rules that plain values, such as a parsed `params.yaml`, break.

    >>> contradictions({"train": {"accumulate": 2}, "model": {"family": "cnn"}})
    []
    """
    return [rule for rule in RULES if rule.broken(values)]

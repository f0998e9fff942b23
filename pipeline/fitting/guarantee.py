"""What breaks the guarantee of `train.privacy`, and what to do instead: told before anything is computed; light."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Values = Mapping[str, Any]  # sections of `params.yaml` by name, plain
SPACE = "tune.space"


class Breach(NamedTuple):
    """A key whose value breaks the guarantee, why, and what to do."""

    key: str
    message: str


class Rule(NamedTuple):
    """A key, its default, the values that are refused, and what is said of them."""

    key: str
    default: Any
    refused: Callable[[Any], bool]
    why: str


def _more(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _some(value: Any) -> bool:
    return value != "none"


RULES = (
    Rule(
        "model.normalisation", "batch", lambda value: value == "batch",
        "a batch's statistics mix its samples, so none has a gradient of its own; set model.normalisation: layer",
    ),
    Rule("model.family", "cnn", lambda value: value == "gan", "it has no private form; set train.privacy.epsilon: 0"),
    Rule(
        "augment.factor", 1, _more,
        "each copy of a sample lets it count once more; set augment.factor: 0, and train.augmentation as you like: its "
        "random transforms are safe",
    ),
    Rule("augment.oversample", "none", _some, "made samples repeat what real ones hold; set augment.oversample: none"),
    Rule("train.sampling", "none", _some, "repeated samples count several times; set train.sampling: none"),
    Rule("train.class_weights", "none", _some, "they are computed from all samples; set train.class_weights: none"),
    Rule("train.mixup", 0, _more, "it mixes samples, so none has a gradient of its own; set train.mixup: 0"),
    Rule("train.cutmix", 0, _more, "it mixes samples, so none has a gradient of its own; set train.cutmix: 0"),
    Rule("train.l1", 0, _more, "it would be clipped with each gradient; set train.l1: 0 and use train.weight_decay"),
    Rule("train.lr", 0.005, lambda value: value == 0, "finding a rate looks at samples without noise; give one"),
    Rule(
        "train.batch_size", 128, lambda value: value == 0,
        "the noise depends on it, and the largest that fits on the machine; give a number",
    ),
    Rule(
        "train.accumulate", 1, lambda value: value != 1,
        "memory does not grow with private batches; set train.accumulate: 1, and a larger train.batch_size",
    ),
    Rule("train.precision", "auto", lambda value: value == "16-mixed", "it scales gradients unseen; use bf16-mixed"),
    Rule(
        "compute.compile", False, bool,
        "single samples' gradients are taken of the plain network; set compute.compile: false",
    ),
    Rule(
        "compute.checkpoint_activations", False, bool,
        "single samples' gradients are taken at once; set compute.checkpoint_activations: false",
    ),
    Rule("compute.processes", 1, lambda value: value != 1, "one process draws all batches and noise; set it to 1"),
)  # fmt: skip
SAFE = ("autoencoder",)  # families without normalisation


def breaches(values: Values) -> list[Breach]:
    """What of some parameters breaks the guarantee that they ask for; nothing where they ask for none.

    >>> breaches({"train": {"privacy": {"epsilon": 3}, "mixup": 0.2}, "model": {"normalisation": "layer"}})[0].key
    'train.mixup'
    """
    given = _more(_get(values, "train.privacy.epsilon"))
    return [*(_given(values) if given else ()), *_searched(values, given)]


def _given(values: Values) -> Iterator[Breach]:
    for rule in RULES:
        if rule.key.partition(".")[0] not in values:
            continue
        value = _get(values, rule.key, rule.default)
        if rule.refused(value) and not _safe(rule, _get(values, "model.family")):
            yield Breach(rule.key, f"{rule.key}: {value} cannot go with train.privacy: {rule.why}")


def _searched(values: Values, given: bool) -> Iterator[Breach]:
    space = _get(values, SPACE)
    for key, domain in space.items() if isinstance(space, Mapping) else ():
        if key in ("train.privacy.epsilon", "train.privacy.delta"):
            yield Breach(
                SPACE, f"{SPACE}: {key} is a promise, and no value to be tuned; take it out of {SPACE}"
            )
        rule = next((rule for rule in RULES if rule.key == key), None)
        safe = rule is None or _safe(rule, _get(values, "model.family"))
        if not given or rule is None or safe or not isinstance(domain, Mapping):
            continue
        for value in domain.get("choices") or [domain.get("low"), domain.get("high")]:
            if rule.refused(value):
                yield Breach(SPACE, f"{SPACE}: {key}: {value} cannot go with train.privacy: {rule.why}")
                break


def _safe(rule: Rule, family: Any) -> bool:
    return rule.key == "model.normalisation" and family in SAFE


def _get(values: Any, dotted: str, default: Any = None) -> Any:
    """A value by its dotted key; what is left out is the default."""
    for part in dotted.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return default if values is None else values

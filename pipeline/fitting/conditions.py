"""Which keys of a search space a trial is asked for: those whose `when` holds, and that its family reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pipeline.fitting.space import Domain, Plain, Space, Value, same

FAMILY = "model.family"
COMMON = ("family", "width", "depth", "dropout", "initialisation")
BEYOND: dict[str, tuple[str, ...]] = {  # what a family reads besides `COMMON`
    "cnn": ("activation", "normalisation", "kernel", "stride"),
    "fnn": ("activation", "normalisation"),
    "rnn": ("normalisation", "bidirectional"),
    "lstm": ("normalisation", "bidirectional"),
    "gru": ("normalisation", "bidirectional"),
    "transformer": ("activation", "normalisation", "heads"),
    "transfer": ("activation", "normalisation"),
    "autoencoder": ("activation", "latent", "variational"),
    "gan": ("activation", "normalisation", "latent"),
}
NOT_OF_IMAGES = {"cnn": ("kernel", "stride"), "autoencoder": ("depth",)}
OWN = {  # keys that the families which read them are asked for; others are asked of all
    f"model.{name}": tuple(family for family, read in BEYOND.items() if name in read)
    for name in ("kernel", "stride", "heads", "bidirectional", "latent", "variational")
}


def read_by(family: str, modality: str) -> set[str]:
    """The fields of `Model` that the network of a family for a modality reads."""
    return {*COMMON, *BEYOND[family]}.difference(NOT_OF_IMAGES.get(family, ()) if modality == "image" else ())


def order(space: Space) -> list[str]:
    """The keys in the order in which they are asked: the family first, as others hang on it."""
    return sorted(space, key=lambda name: name != FAMILY)


def needs(name: str, space: Space) -> list[tuple[str, tuple[Value, ...]]]:
    """The keys that a key hangs on, each with the values for which it is asked; all must hold."""
    own = [(FAMILY, OWN[name])] if name in OWN and FAMILY in space else []
    return [*space[name].when.items(), *own]


def wanted(name: str, values: Plain, space: Space) -> bool:
    """True where a key is asked, given the values of those before it."""
    return all(
        key in values and any(same(values[key], each) for each in allowed)
        for key, allowed in needs(name, space)
    )


def drawn(space: Space, value: Callable[[str, Domain], Any]) -> Plain:
    """The values of a trial: of each key that is asked, in order, what `value` gives."""
    values: Plain = {}
    for name in order(space):
        if wanted(name, values, space):
            values[name] = value(name, space[name])
    return values


def always(space: Space) -> list[str]:
    """The keys that every trial is asked for."""
    return [name for name in order(space) if not needs(name, space)]


def combinations(space: Space) -> Iterator[Plain]:
    """Every point of a grid: the values of the keys that are asked at it."""

    def below(values: Plain, left: list[str]) -> Iterator[Plain]:
        if not left:
            yield values
        elif not wanted(left[0], values, space):
            yield from below(values, left[1:])
        else:
            for value in space[left[0]].grid():
                yield from below({**values, left[0]: value}, left[1:])

    yield from below({}, order(space))


def misplaced(name: str, space: Space) -> str:
    """What is wrong with the `when` of a key; empty where nothing is."""
    names = order(space)
    for key, values in space[name].when.items():
        if key not in space:
            return f"'{name}' hangs on '{key}', which is not tuned; name a key of tune.space"
        if names.index(key) >= names.index(name):
            first = f", and '{FAMILY}' is asked first" if name == FAMILY else ""
            return f"'{name}' hangs on '{key}', which must come before it{first}"
        for value in values:
            if not space[key].takes(value):
                return f"'{name}' hangs on '{key}' being {value!r}, which it never is"
    return ""

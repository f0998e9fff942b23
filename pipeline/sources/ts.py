"""The `.ts` files of the UCR and UEA archives (Bagnall et al., 2018): a line a series, read one at a time.

`@` lines say what follows; then each line holds the dimensions of a series, separated by colons, its steps by
commas, `?` where a value is missing, and the label last. Series, and dimensions of different series, may differ in
length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.params import UserError
from pipeline.sources.files import lines
from serving.inputs.body import BadInput

KEYS = ("problemname", "timestamps", "missing", "univariate", "dimensions", "dimension", "equallength",
        "serieslength", "classlabel", "targetlabel")  # fmt: skip
COMMENTS = ("#", "%")


@dataclass(frozen=True)
class Header:
    """What the `@` lines of a file say; `channels` is 0 where they do not say how many."""

    channels: int
    classes: tuple[str, ...]
    regression: bool
    labelled: bool = True


def _truth(where: str, key: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise UserError(f"{where}: '@{key}' is {value!r}; expected true or false")
    return value.lower() == "true"


def read_header(path: Path, labelled: bool = True) -> Header:
    """What the file says of its series, which have labels or, unless they must be `labelled`, none.

    Raises:
        UserError: it says nothing of use, or series have time stamps or lack labels.
    """
    needed, labelled = labelled, False
    channels, classes, regression = 0, tuple[str, ...](), False
    for number, line in enumerate(lines(path), 1):
        where, text = f"{path.name}, line {number}", line.strip()
        if not text or text.startswith(COMMENTS):
            continue
        if not text.startswith("@"):
            raise UserError(f"{where}: expected a line that begins with '@', or '@data'; found {text[:40]!r}")
        key, *words = text[1:].split()
        key, value = key.lower(), words[0] if words else ""
        if key == "data":
            break
        if key not in KEYS:
            raise UserError(f"{where}: unknown key '@{key}'; expected one of {', '.join(KEYS)} or data")
        if key == "timestamps" and _truth(where, key, value):
            raise UserError(
                f"{where}: series with time stamps are not read from .ts files; write a long CSV of them"
            )
        if key == "univariate" and _truth(where, key, value):
            channels = 1
        elif key in ("dimensions", "dimension"):
            if not value.isdigit() or int(value) < 1:
                raise UserError(f"{where}: '@{key}' is {value!r}; expected a number from 1 on")
            channels = int(value)
        elif key == "classlabel" and _truth(where, key, value):
            labelled, classes = True, tuple(words[1:])
            if len(set(classes)) < 2:
                raise UserError(f"{where}: expected two classes at least after '@classlabel true'")
        elif key == "targetlabel" and _truth(where, key, value):
            labelled = regression = True
    else:
        raise UserError(f"{path.name}: no line '@data' before the end of the file")
    if needed and not labelled:
        raise UserError(
            f"{path.name}: no line '@classlabel true ...' or '@targetlabel true': nothing to learn from"
        )
    return Header(channels, classes, regression, labelled)


def data_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines after `@data` that hold a series, with their numbers."""
    begun = False
    for number, line in enumerate(lines(path), 1):
        text = line.strip()
        if begun and text and not text.startswith(COMMENTS):
            yield number, text
        begun = begun or text.lower() == "@data"


def parse(line: str, channels: int) -> tuple[np.ndarray, str]:
    """One line as its steps (T, C) float64, NaN where missing, and its label.

    >>> parse("1,2,?:4,5,6:walk", 2)[0].tolist()
    [[1.0, 4.0], [2.0, 5.0], [nan, 6.0]]

    Raises:
        BadInput: it has other dimensions, unequal ones, or what is no number.
    """
    *dimensions, label = line.split(":")
    if len(dimensions) != channels:
        raise BadInput(f"the series has {len(dimensions)} dimensions before its label; expected {channels}")
    values: list[Any] = []
    for at, dimension in enumerate(dimensions, 1):
        cells = ["nan" if cell.strip() == "?" else cell for cell in dimension.split(",")]
        try:
            values.append(np.array(cells, np.float64))
        except ValueError:
            wrong = next(cell for cell in cells if not _is_number(cell))
            raise BadInput(f"dimension {at} holds {wrong.strip()!r}; expected a number or '?'") from None
        if len(cells) != len(values[0]):
            raise BadInput(f"dimension {at} has {len(cells)} steps; the first has {len(values[0])}")
    return np.stack(values, axis=1), label.strip()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

"""From JSON or CSV to the canonical series: steps of channels, NaN where a value is missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.inputs.body import BadInput, csv_lines, is_json, only_key, parse_json
from serving.inputs.spec import DataSpec, SeriesInput
from serving.inputs.table import is_missing

FLAT = 1e-6  # a series whose deviation is a smaller share of its largest value is constant but for rounding
LEAST = 1e-30  # what the largest value of a series that is zero throughout counts as


def check_steps(steps: np.ndarray, series: SeriesInput) -> np.ndarray:
    """A series (T, C) float32 that may be used, without trailing steps that hold nothing.

    Raises:
        BadInput: too short or too long, infinite, or nothing in it.
    """
    real = np.flatnonzero(~np.isnan(steps).all(axis=1))
    if len(steps) and not len(real):
        raise BadInput(f"the series holds nothing: all {len(steps)} steps are missing")
    steps = steps[: real[-1] + 1] if len(real) else steps[:0]
    if not series.min_steps <= len(steps) <= series.max_steps:
        raise BadInput(
            f"the series has {len(steps)} steps; expected {series.min_steps} to {series.max_steps}"
        )
    if np.isinf(steps).any():
        raise BadInput(f"step {int(np.flatnonzero(np.isinf(steps).any(axis=1))[0])} holds an infinite value")
    return np.ascontiguousarray(steps, np.float32)


def decode(body: bytes | dict[str, Any], spec: DataSpec) -> np.ndarray:
    """One request body as (T, C) float32: `{"series": [[...], ...]}`, a list a step, or CSV, a line a step.

    A lone channel may be a plain list of numbers; null or an empty cell is a missing value.

    Raises:
        BadInput: it is not that, or has another number of channels.
    """
    series = spec.series
    assert series is not None
    if is_json(body):
        content = parse_json(body)
        steps = content if isinstance(content, list) else only_key(content, "series")[1]
    else:
        assert not isinstance(body, dict)
        steps = csv_lines(body)
        if steps and [cell.strip() for cell in steps[0]] == list(series.channels):
            steps = steps[1:]  # a header line
    if not isinstance(steps, list):
        raise BadInput(f"'series' must be a list of steps; found {type(steps).__name__}")
    count = len(series.channels)
    values = np.full((len(steps), count), np.nan)
    for at, step in enumerate(steps):
        cells = step if isinstance(step, list) else [step]
        if len(cells) != count:
            raise BadInput(
                f"step {at} has {len(cells)} values; expected {count}: {', '.join(series.channels)}"
            )
        for channel, cell in enumerate(cells):
            if not is_missing(cell):
                try:
                    values[at, channel] = float(cell)
                except (ValueError, TypeError):
                    raise BadInput(f"step {at} holds {cell!r}; expected a number or nothing") from None
    return check_steps(values.astype(np.float32), series)

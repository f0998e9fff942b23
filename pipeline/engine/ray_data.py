"""A function over the chunks of a large set, on the machines of a cluster through Ray Data: results in order.

Ray Data streams: so many chunks are under way as fit into the cluster's memory, and a chunk whose machine is lost is
made again, which changes nothing as it depends on itself alone.
"""

from __future__ import annotations

import itertools
import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.core.params import UserError
from pipeline.engine.ray_cluster import enter, joined, shared_folder

if TYPE_CHECKING:
    from pipeline.fitting.compute import Compute

T = TypeVar("T")
R = TypeVar("R")
LARGE = 64  # chunks from which on a cluster is worth its start
BLOCKS = 1000  # parts of the work, at most, as Ray Data counts them


def in_order(work: Callable[[T], R], tasks: Iterable[T], compute: Compute) -> Iterator[R]:
    """Results of a module's function, in the order of their tasks; here, where the tasks are few or there is no Ray.

    Raises:
        UserError: Ray is not installed, no cluster answers, or the function raised it.
    """
    waiting = iter(tasks)
    if compute.engine == "ray":
        first = list(itertools.islice(waiting, LARGE))
        if len(first) == LARGE:
            yield from on_cluster(work, [*first, *waiting], compute.ray_address)
            return
        waiting = iter(first)
    yield from map(work, waiting)


def on_cluster(work: Callable[[T], R], tasks: list[T], address: str = "") -> Iterator[R]:
    """As `in_order`, all of it on the cluster at an address."""
    with joined(address) as ray, shared_folder() as mark:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        settings = ray.data.DataContext.get_current()
        settings.execution_options.preserve_order = True
        settings.enable_progress_bars = False

        def made(batch: dict[str, Any]) -> dict[str, list[bytes]]:
            enter(mark)
            return {"made": [pickle.dumps(work(pickle.loads(task))) for task in batch["task"]]}  # noqa: S301

        sent = [{"task": pickle.dumps(task)} for task in tasks]
        rows = ray.data.from_items(sent, override_num_blocks=min(len(sent), BLOCKS))
        try:
            for row in rows.map_batches(made, batch_size=1).iter_rows():
                yield pickle.loads(row["made"])  # noqa: S301
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray gave up: {str(error).splitlines()[0]}") from None

"""How many tasks run at once on a machine, and which cores and GPUs each has."""

from __future__ import annotations

import math
import os


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def at_once(workers: int, gpus: int, gpus_each: float) -> int:
    """How many tasks run at once: `workers`, 0 being one a core, and no more than have their part of the GPUs.

    >>> at_once(8, gpus=2, gpus_each=0.3)
    6
    """
    size = workers or cores()
    if not gpus or not gpus_each:
        return size
    fitting = gpus * int(1 / gpus_each) if gpus_each <= 1 else gpus // math.ceil(gpus_each)
    return min(size, max(1, fitting))


def surroundings(place: int, size: int, gpus: int, gpus_each: float) -> dict[str, str]:
    """The environment of one of `size` workers: its part of the cores and of the GPUs.

    >>> surroundings(3, 4, gpus=2, gpus_each=0.5)["CUDA_VISIBLE_DEVICES"]
    '1'
    """
    found = {"OMP_NUM_THREADS": str(max(1, cores() // size))}
    if gpus and gpus_each:
        count = math.ceil(gpus_each)
        first = place // int(1 / gpus_each) if gpus_each <= 1 else place * count
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        found["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[first : first + count])
    return found

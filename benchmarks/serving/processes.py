"""The process trees of servers: who belongs to one, what it used, and how it is held, let go and ended."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable

import psutil

MARK = "FAIRLEAD_BENCHMARK_SIDE"  # a variable that children inherit, even those that leave their parent


def members(root: int, mark: str) -> list[psutil.Process]:
    """The processes of a server: the root, all below it, and those that carry its mark."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        top = psutil.Process(root)
        found = {each.pid: each for each in [top, *top.children(recursive=True)]}
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if each.pid not in found and each.environ().get(MARK) == mark:
                found[each.pid] = each
    return list(found.values())


def cpu_seconds(processes: Iterable[psutil.Process]) -> dict[int, float]:
    """CPU time of each process so far, by its id, with that of its children that ended."""
    used = {}
    for each in processes:
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            used[each.pid] = times.user + times.system + times.children_user + times.children_system
    return used


def spent(before: dict[int, float], after: dict[int, float]) -> float:
    """CPU seconds between two calls of `cpu_seconds`; a process that is new counts from nothing."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def memory(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """MiB of a tree: resident, and proportional, in which pages that n processes share count a n-th each."""
    resident = proportional = 0
    for each in processes:
        with contextlib.suppress(psutil.Error):
            found = each.memory_full_info()
            resident, proportional = resident + found.rss, proportional + found.pss
    return {"rss": resident / 2**20, "pss": proportional / 2**20}


def hold(processes: Iterable[psutil.Process]) -> None:
    """Stop processes where they are, so that who does not have its turn uses nothing."""
    _signal(processes, signal.SIGSTOP)


def release(processes: Iterable[psutil.Process]) -> None:
    """Let held processes go on."""
    _signal(processes, signal.SIGCONT)


def end(find: Callable[[], list[psutil.Process]]) -> None:
    """End a tree: asks, waits, and kills what is left."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        left = find()
        _signal(left, number)
        _signal(left, signal.SIGCONT)
        psutil.wait_procs(left, patience)


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for each in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if each.pid != os.getpid():
                each.send_signal(number)

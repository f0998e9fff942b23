"""The metrics page: what all workers counted, added up, and what TorchServe says of itself."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from serving.worker.metrics import FOLDER, METRICS, Key

GONE = "gone.json"  # the sums of workers that ended: a counter must not fall
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_folding = threading.Lock()


def page(state: Path, server_url: str | None = None) -> bytes:
    """The metrics of a server's state folder in Prometheus's text format.

    Args:
        state: the state folder.
        server_url: TorchServe's own metrics page, which is put at the end; None where there is none.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    own = _own_page(server_url) if server_url else None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(_read(state), None if server_url is None else own is not None))  # type: ignore[arg-type]
    return generate_latest(registry) + (own or b"")


def clear(state: Path) -> None:
    """Forget all counts, before a server starts."""
    for path in (state / FOLDER).glob("*.json"):
        path.unlink(missing_ok=True)


class _Sums:
    """What workers counted, together."""

    def __init__(self) -> None:
        self.counters: Counter[Key] = Counter()
        self.histograms: dict[Key, list[float]] = {}
        self.workers: Counter[Key] = Counter()

    def add(self, content: dict[str, Any], live: bool) -> None:
        for key, value in content["counters"]:
            self.counters[tuple(key)] += value
        for key, cells in content["histograms"]:
            known = self.histograms.setdefault(tuple(key), [0.0] * len(cells))
            self.histograms[tuple(key)] = [a + b for a, b in zip(known, cells, strict=True)]
        if live:
            self.workers.update(tuple(model) for model in content["models"])

    def content(self) -> dict[str, Any]:
        pairs = {"counters": list(self.counters.items()), "histograms": list(self.histograms.items())}
        return {"models": [], **pairs}


def _read(state: Path) -> _Sums:
    """Sums over all workers; the files of those that ended become one."""
    folder, live, gone = state / FOLDER, _Sums(), _Sums()
    with _folding:
        ended = []
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                content = json.loads(path.read_text())
                alive = path.name != GONE and _alive(path)
                (live if alive else gone).add(content, alive)
                ended += [] if alive or path.name == GONE else [path]
        if ended:
            with contextlib.suppress(OSError):
                fresh = folder / ".gone.new"
                fresh.write_text(json.dumps(gone.content()))
                fresh.replace(folder / GONE)
                for path in ended:
                    path.unlink(missing_ok=True)
    live.add(gone.content(), False)
    return live


def _alive(path: Path) -> bool:
    """Whether the process that wrote a file lives: one that began later only has its number."""
    with contextlib.suppress(psutil.Error, ValueError):
        return psutil.Process(int(path.stem)).create_time() <= path.stat().st_mtime + 1
    return False


class _Families:
    """Gives `_Sums` to prometheus_client."""

    def __init__(self, sums: _Sums, up: bool | None) -> None:
        self.sums, self.up = sums, up

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for name, metric in METRICS.items():
            if metric.bounds:
                histogram = HistogramMetricFamily(name, metric.about, labels=metric.labels)
                for labels, cells in _of(name, self.sums.histograms):
                    histogram.add_metric(labels, *_cumulative(metric.bounds, cells))
                yield histogram
            else:
                counter = CounterMetricFamily(name, metric.about, labels=metric.labels)
                for labels, value in _of(name, self.sums.counters):
                    counter.add_metric(labels, value)
                yield counter
        for name, about in (
            ("fairlead_model_info", "1 for each version that can be asked."),
            ("fairlead_workers", "Live workers that hold a version."),
        ):
            gauge = GaugeMetricFamily(name, about, labels=("model", "version"))
            for key, count in self.sums.workers.items():
                gauge.add_metric(key, count if name == "fairlead_workers" else 1)
            yield gauge
        if self.up is not None:
            yield GaugeMetricFamily("fairlead_server_up", "1 where TorchServe answers.", value=float(self.up))


def _of(name: str, sums: dict[Key, Any]) -> Iterable[tuple[Key, Any]]:
    return ((key[1:], value) for key, value in sorted(sums.items()) if key[0] == name)


def _cumulative(bounds: tuple[float, ...], cells: list[float]) -> tuple[list[tuple[str, float]], float]:
    buckets, total = [], 0.0
    for bound, count in zip((*map(str, map(float, bounds)), "+Inf"), cells, strict=False):
        total += count
        buckets.append((bound, total))
    return buckets, cells[-1]


def _own_page(url: str) -> bytes | None:
    with contextlib.suppress(httpx.HTTPError):
        answer = httpx.get(url, timeout=2, trust_env=False)
        return answer.content if answer.is_success else None
    return None

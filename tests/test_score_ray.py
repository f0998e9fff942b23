"""`fairlead score --engine ray`: a real cluster of two nodes, one of which dies midway, ends with the same bytes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.params import UserError
from pipeline.engine import mapping as engine
from pipeline.score import score
from pipeline.score_plan import Asked
from tests.bundles import write_bundle
from tests.modalities import table_spec
from tests.stores import free_port
from tests.test_score import many

pytestmark = pytest.mark.slow
ROWS = 50_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    found.shutdown()


def test_a_node_that_dies_midway_costs_nothing(cluster: Any, tmp_path: Path) -> None:
    given, bundle = many(tmp_path / "in.csv", ROWS), write_bundle(tmp_path / "b", table_spec(("no", "yes")))
    columns = {"keep": ("key",)}
    score(Asked(given, tmp_path / "local.parquet", bundle, columns), lambda _: None)
    other = cluster.add_node(num_cpus=1)
    out = tmp_path / "ray.parquet"
    done: list[Any] = []
    asked = Asked(given, out, bundle, columns, ray=cluster.address)
    thread = threading.Thread(target=lambda: done.append(score(asked, lambda _: None)), daemon=True)
    thread.start()
    while not list(asked.parts.glob("0*[0-9].parquet")) and thread.is_alive():
        time.sleep(0.01)
    assert thread.is_alive()
    assert not out.exists()
    cluster.remove_node(other, allow_graceful=False)
    thread.join(120)
    assert done[0]["samples"] == ROWS
    assert out.read_bytes() == (tmp_path / "local.parquet").read_bytes()


def test_no_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (f"127.0.0.1:{free_port()}", "127.0.0.1:x"):
        with pytest.raises(UserError, match=f"no Ray cluster answers at '{address}'"):
            list(engine.on_ray(abs, [1], address))
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the extra 'ray': pip install"):
        list(engine.on_ray(abs, [1]))

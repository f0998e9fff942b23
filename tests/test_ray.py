"""A real Ray cluster of several nodes on this machine: what is lost with a node or a process is done, and told, once.

One cluster for the file, as each costs seconds; a test that kills a node adds that node itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pipeline.augment import Augment, augment
from pipeline.core.dataset import CHUNK, Dataset
from pipeline.core.params import UserError
from pipeline.engine import mapping, ray_cluster, ray_data
from pipeline.engine.ray_tasks import RayTasks, needs
from pipeline.engine.tasks import Done, executor
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import fit
from pipeline.fitting.processes import fit_together
from pipeline.ingest import Ingest, ingest
from pipeline.score import score
from pipeline.score_plan import Asked
from pipeline.sources import Data
from pipeline.sources.images import ImageFolderSource
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.study import open_study
from serving.inputs.spec import Transform
from tests import postgres
from tests.bundles import write_bundle
from tests.conftest import ROOT, digits, write_dataset, write_image_folder
from tests.modalities import table_spec
from tests.project import Project
from tests.raywork import Work, told
from tests.small import blobs, table_job
from tests.stores import free_port
from tests.test_score import many

pytestmark = pytest.mark.slow
ROWS = 50_000


def test_no_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (f"127.0.0.1:{free_port()}", "127.0.0.1:x"):
        with pytest.raises(UserError, match=f"no Ray cluster answers at '{address}'"):
            list(mapping.on_ray(abs, [1], address))
    with pytest.raises(UserError, match="joined from one of its own nodes"):
        list(mapping.on_ray(abs, [1], "ray://127.0.0.1:10001"))
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    for start in (
        lambda: list(mapping.on_ray(abs, [1])),
        lambda: RayTasks(told, told, Compute(engine="ray")),
    ):
        with pytest.raises(UserError, match=r"needs the extra 'ray': pip install"):
            start()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(ROOT)  # processes of its nodes import what tests send them
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def connected(cluster: Any) -> Iterator[None]:
    """One connection for tests that need none of their own."""
    with ray_cluster.joined(cluster.address):
        yield


@pytest.fixture
def doomed(cluster: Any) -> Iterator[Callable[[], None]]:
    """A second node; calling it kills the node."""
    node = cluster.add_node(num_cpus=1)
    alive = [node]

    def kill() -> None:
        cluster.remove_node(alive.pop(), allow_graceful=False)

    yield kill
    if alive:
        kill()


@pytest.fixture
def compute(cluster: Any) -> Compute:
    return Compute(engine="ray", ray_address=cluster.address, workers=0, accelerator="cpu", threads=1)


# Tasks that ask


def settled(pool: RayTasks[Work, Any], *works: Work) -> dict[str, Done[Work, Any]]:
    """What becomes of some tasks, by their names."""
    for work in works:
        pool.submit(work)
    ended = {done.task.name: done for done in (pool.wait() for _ in works)}
    assert pool.running == 0
    return ended


def test_tasks_ask_fail_and_are_lost_one_by_one(
    compute: Compute, doomed: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)
    heard: list[Any] = []

    def answer(work: Work, question: Any) -> Any:
        assert question[0] == work.name
        heard.append(question)
        return 10 * question[1]

    with executor(told, answer, compute) as pool:
        assert isinstance(pool, RayTasks)
        assert pool.size == 2
        ended = settled(
            pool, Work("a", folder=here), Work("b", 2, "fails", here), Work("c", 1, "fails oddly", here)
        )
        assert ended["a"].result == {"answers": [0, 10, 20], "folder": here, "threads": "1"}
        assert isinstance(ended["b"].error, UserError)
        assert str(ended["b"].error) == "b is wrong"
        assert str(ended["c"].error) == "Unsendable: cannot be sent"
        assert [number for name, number in heard if name == "a"] == [0, 1, 2]

        died = settled(pool, Work("d", 2, "dies", here))["d"]
        assert (died.result, died.error) == (None, None)
        assert "WorkerCrashed" in died.lost
        again = settled(pool, died.task)["d"]
        assert again.result["answers"] == [], "it went on from what it had done"
        assert [number for name, number in heard if name == "d"] == [0, 1]

        for name in ("x", "y"):
            pool.submit(Work(name, 1, "waits", here))
        until(lambda: len(list(tmp_path.glob("*.waits"))) == 2, pool)
        doomed()
        lost = pool.wait()
        assert "NodeDied" in lost.lost
        (tmp_path / "go").touch()
        pool.submit(lost.task)
        ended = {done.task.name: done for done in (pool.wait(), pool.wait())}
        assert ended.keys() == {"x", "y"}
        assert ended[lost.task.name].result["answers"] == []

        (tmp_path / "go").unlink()
        pool.submit(Work("z", 0, "waits", here))
        until((tmp_path / "z.waits").exists, pool)
        running = int((tmp_path / "z.waits").read_text())
    assert psutil.wait_procs([psutil.Process(running)] if psutil.pid_exists(running) else [], 20)[1] == []
    assert list((tmp_path / ".fairlead/ray").iterdir()) == []


def until(seen: Callable[[], object], pool: RayTasks[Work, Any]) -> None:
    """Answer questions until something is seen."""
    watch = threading.Event()
    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline
        ready, _ = pool._ray.wait([pool._asked], timeout=0.05)
        if ready:
            pool._answer()
        watch.wait(0.05)


def test_a_node_that_does_not_see_the_project_is_named(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "there")
        with ray_cluster.shared_folder() as mark:
            assert Path(mark).exists()
        patch.setattr(ray_cluster, "PATIENCE", 1)
        with pytest.raises(
            UserError, match=f"does not see {tmp_path}/there: all nodes of a Ray cluster need"
        ):
            ray_cluster.enter(mark)


def test_what_a_task_needs_is_asked_of_ray_and_refused_where_no_node_has_it() -> None:
    plain, gpus = [{"CPU": 2.0}], [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}]
    assert needs(plain, Compute()) == {"num_cpus": 1}
    assert needs(plain, Compute(threads=16)) == {"num_cpus": 2}
    assert needs(gpus, Compute(gpus_per_trial=0.25, threads=2)) == {"num_cpus": 2, "num_gpus": 0.25}
    assert needs(gpus, Compute(gpus_per_trial=0.25, accelerator="cpu")) == {"num_cpus": 1}
    for given, said in (
        ({"gpus_per_trial": 4}, "no node of the Ray cluster has more than 2"),
        ({"gpus_per_trial": 1.5}, "whole GPUs"),
    ):
        with pytest.raises(UserError, match=said):
            needs(gpus, Compute.model_validate(given))
    with pytest.raises(UserError, match="no node of the Ray cluster has a GPU"):
        needs(plain, Compute(accelerator="gpu"))


# A study


def searched(
    address: str, folder: Path, compute: Compute, heard: Callable[[Any], None] = lambda _: None
) -> Any:
    """The table of a small study: state, values and curve of each trial."""
    settings = Tune.model_validate(
        {"sampler": "random", "pruner": "none", "trials": 6, "minutes": 60, "max_epochs": 3, "space": SPACE}
    )
    job = table_job(folder / "data", blobs(96, 1), blobs(48, 2), {"max_epochs": 3})
    study = open_study(address, "small", settings)

    class Heard(Coordinator):
        def answer(self, task: Any, report: Any) -> bool:
            heard(report)
            return super().answer(task, report)

    (folder / "trials").mkdir(exist_ok=True)
    Heard(study, Plan(settings, (job,), 7, folder / "trials", compute), lambda *_: None).run()
    return [[t.number, t.state.name, t.params, t.value, t.intermediate_values] for t in study.trials]


SPACE = {"train.lr": {"low": 0.001, "high": 0.1, "log": True}, "model.width": {"choices": [4, 8, 16]}}


def test_a_study_on_a_cluster_is_that_of_one_process_though_a_node_and_the_database_die(
    connected: None,
    compute: Compute,
    doomed: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    lost: list[Done[Any, Any]] = []
    ended = RayTasks._done

    def spied(self: Any, task: Any, ref: Any) -> Done[Any, Any]:
        done = ended(self, task, ref)
        lost.extend([done] if done.lost else [])
        return done

    monkeypatch.setattr(RayTasks, "_done", spied)
    heard: list[Any] = []
    with postgres.running() as database:
        address = database.address("studies")

        def disturb(report: Any) -> None:
            heard.append(report)
            if len(heard) == 3:
                doomed()
            if len(heard) == 6:
                database.stop()
                threading.Timer(1, database.start).start()

        found = searched(address, tmp_path, compute, disturb)
    alone = searched(f"sqlite:///{tmp_path}/alone.db", tmp_path, Compute(accelerator="cpu", threads=1))
    assert lost, "or the node did nothing"  # more than one, where Ray gives it a task in its last moment
    assert all("NodeDied" in done.lost for done in lost)
    assert [row[1] for row in found] == ["COMPLETE"] * 6
    for one, other in zip(found, alone, strict=True):
        assert one[:3] == other[:3]
        assert one[3] == pytest.approx(other[3], rel=1e-4)
        assert one[4] == pytest.approx(other[4], rel=1e-4)


# Training


def test_processes_of_a_cluster_train_what_one_does_though_one_is_killed(
    connected: None,
    compute: Compute,
    doomed: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    job = table_job(tmp_path / "data", blobs(96, 1), blobs(48, 2), {"max_epochs": 4})
    alone = fit(job, [], tmp_path / "alone").state_dict()
    job = replace(job, compute=compute.model_copy(update={"processes": 2}))
    heard: list[int] = []

    def hook(epoch: int, metrics: dict[str, float]) -> None:
        heard.append(epoch)
        if heard == [0, 1]:
            killed = next(each for each in psutil.process_iter(["cmdline"]) if trains(each))
            killed.kill()

    together = fit_together(job, [hook], tmp_path / "together").state_dict()
    assert heard in ([0, 1, 1, 2, 3], [0, 1, 2, 3]), "from the last checkpoint on"
    for name, value in alone.items():
        assert torch.allclose(value.float(), together[name].float(), rtol=1e-4, atol=1e-5), name
    assert list((tmp_path / ".fairlead/ray").iterdir()) == []


def trains(process: psutil.Process) -> bool:
    """True for a process that Ray Train has started on this machine for this very test."""
    names = " ".join(process.info["cmdline"] or [])
    return "RayTrainWorker" in names and str(ROOT) in process.environ().get("PYTHONPATH", "")


def test_more_processes_than_a_cluster_has_room_for_are_refused(
    connected: None, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = table_job(tmp_path / "data", blobs(96, 1), blobs(48, 2), {})
    job = replace(job, compute=compute.model_copy(update={"processes": 30}))
    with pytest.raises(UserError, match=r"compute\.processes is 30, and the Ray cluster of .* has room for"):
        fit_together(job, [])


# Data


def test_a_cluster_ingests_and_augments_the_very_same_bytes(
    connected: None, compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_data, "LARGE", 2)
    write_image_folder(tmp_path / "raw", ("a", "b"), 9)
    source = ImageFolderSource(Data(source="images", path=str(tmp_path / "raw")))
    transform = Transform(mean=(0.1,), std=(0.3,))
    images, labels = digits(CHUNK + 40, 5)
    training = write_dataset(tmp_path / "train", images, labels)
    made = Project(tmp_path)
    for name, where in (("local", Compute()), ("ray", compute)):
        assert ingest(source, Ingest(chunk=4), tmp_path / name / "ingest", where) == 18
        assert augment(training, transform, Augment(factor=1), 7, tmp_path / name / "augment", where) == 2 * (
            CHUNK + 40
        )
    assert made.digest("local") == made.digest("ray")
    copies = Dataset(tmp_path / "ray/augment").inputs
    assert not (copies[: CHUNK + 40] == copies[CHUNK + 40 :]).all((1, 2, 3)).any(), (
        "every chunk was transformed"
    )

    (tmp_path / "raw/b/0003.png").write_bytes(b"no image")
    told = []
    for where in (Compute(), compute):
        with pytest.raises(UserError, match=r"1 of 18 samples cannot be used:\n  b/0003\.png") as error:
            ingest(source, Ingest(chunk=4), tmp_path / "bad", where)
        told.append(str(error.value))
    assert told[0] == told[1]


# Scoring


def test_a_node_that_dies_midway_costs_nothing(
    connected: None, cluster: Any, doomed: Callable[[], None], tmp_path: Path
) -> None:
    given, bundle = many(tmp_path / "in.csv", ROWS), write_bundle(tmp_path / "b", table_spec(("no", "yes")))
    columns = {"keep": ("key",)}
    score(Asked(given, tmp_path / "local.parquet", bundle, columns), lambda _: None)
    out = tmp_path / "ray.parquet"
    done: list[Any] = []
    asked = Asked(given, out, bundle, columns, ray=cluster.address)
    thread = threading.Thread(target=lambda: done.append(score(asked, lambda _: None)), daemon=True)
    thread.start()
    while not list(asked.parts.glob("0*[0-9].parquet")) and thread.is_alive():
        time.sleep(0.01)
    assert thread.is_alive()
    assert not out.exists()
    doomed()
    thread.join(120)
    assert done[0]["samples"] == ROWS
    assert out.read_bytes() == (tmp_path / "local.parquet").read_bytes()

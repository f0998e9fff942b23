"""Runs, registry and MLflow's pages, on a real MLflow server and on the local database that is the default."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipeline import registry, tracking
from pipeline.core.params import UserError
from pipeline.registry import Champion
from pipeline.tracking import Run, log_model

ROOT = Path(__file__).parents[1]
PARAMS = "name: digits\nseed: 7\ntracking: {system_metrics_seconds: 0.2}\n"
RECEIPT = {"reason": "better", "verdict": "promoted", "model_version": "abc", "archive_sha256": ""}
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_healthy(process: subprocess.Popen[str], port: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).text == "OK":
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError(f"no answer on port {port} in {seconds} s")


def family(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, "PYTHONPATH": str(ROOT), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **more}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    words = f"-m mlflow server --workers 1 --host 127.0.0.1 --port {port} --backend-store-uri".split()
    stores = [f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *words, *stores],
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            wait_healthy(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            members = family(process.pid)
            process.terminate()
            for member in psutil.wait_procs(members, 10)[1]:
                member.kill()
            process.wait(10)


@pytest.fixture(scope="module")
def local_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose runs are in its own database; made once, as MLflow takes seconds to lay it out."""
    return tmp_path_factory.mktemp("local")


def forget() -> None:
    tracking.client.cache_clear()
    tracking.lineage.cache_clear()


@pytest.fixture(params=["server", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A project on each of the two stores; gives the store's URI."""
    if request.param == "server":
        folder, address = tmp_path, str(request.getfixturevalue("server"))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    else:
        folder, address = request.getfixturevalue("local_folder"), "sqlite:///mlflow.db"
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(folder)
    forget()
    yield address
    forget()


# Runs


def test_a_run_holds_all_that_was_recorded(store: str, tmp_path: Path) -> None:
    assert tracking.uri() == store
    Path("dvc.lock").write_text("locked")
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    run = tracking.start("train-1", {"stage": "train"})
    run.params({"train.lr": 0.1, "data.path": None, "long": "x" * 7000})
    run.params({"train.lr": 0.1})
    run.metrics({"loss": 1.5}, 0)
    run.metrics({"loss": 0.5, "accuracy": 1}, 1)
    run.tags({"verdict": "promoted"})
    run.data("mnist", "d" * 64, "data/augment", "training")
    run.files(folder, "plots")
    run.files(tmp_path / "b.txt")
    run.finish()

    found = tracking.client().get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "train-1"
    assert found.data.params == {"train.lr": "0.1", "data.path": "None", "long": "x" * 6000}
    assert found.data.metrics == {"loss": 0.5, "accuracy": 1.0}
    history = tracking.client().get_metric_history(run.id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [(0, 1.5), (1, 0.5)]
    tags = found.data.tags
    assert (tags["stage"], tags["verdict"]) == ("train", "promoted")
    assert tags["dvc.lock.sha256"] == hashlib.sha256(b"locked").hexdigest()
    assert tags["mlflow.source.git.commit"] == "none", "the project of this test is in no repository"
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.dataset.source) == (
        "mnist",
        "d" * 36,
        "data/augment",
    )
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert tracking.download(f"runs:/{run.id}/plots/a.txt", tmp_path / "got").read_text() == "one"
    assert tracking.download(f"runs:/{run.id}/b.txt", tmp_path / "got").read_text() == "two"
    experiment = tracking.client().get_experiment(found.info.experiment_id)
    assert experiment.name == "digits"
    assert experiment.artifact_location.startswith(
        "mlflow-artifacts:" if store.startswith("http") else "file://"
    )


def test_system_metrics_are_sampled_while_a_block_runs(store: str) -> None:
    run = tracking.start("sampled", {})
    with tracking.recording(run):
        time.sleep(1.5)
    found = tracking.client().get_run(run.id)
    assert found.info.status == "RUNNING", "who recorded may go on; finish() closes"
    assert 0 <= found.data.metrics["system/cpu_utilization_percentage"] <= 100
    assert found.data.metrics["system/system_memory_usage_megabytes"] > 100
    assert len(tracking.client().get_metric_history(run.id, "system/cpu_utilization_percentage")) >= 2


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_whose_block_ends_badly_says_so(error: type[BaseException], status: str, store: str) -> None:
    run = tracking.start("ends badly", {})
    with pytest.raises(error), tracking.recording(run):
        raise error
    assert tracking.client().get_run(run.id).info.status == status


def test_trials_are_children_of_their_study(store: str) -> None:
    parent = tracking.start("tune", {})
    children = {tracking.start(f"trial-{number}", {}, parent).id for number in range(2)}
    query = f"tags.mlflow.parentRunId = '{parent.id}'"
    found = tracking.client().search_runs([tracking.experiment_id()], query)
    assert {run.info.run_id for run in found} == children


def test_attaching_to_a_run_that_the_store_does_not_hold_names_the_store(store: str) -> None:
    run = tracking.start("kept", {})
    assert tracking.attach(run.id) == run
    for gone in ("0" * 32, "no such id"):
        with pytest.raises(UserError) as told:
            tracking.attach(gone)
        assert store in str(told.value)
        assert gone in str(told.value)
        assert "dvc repro -f -s train" in str(told.value)
    tracking.client().delete_run(run.id)
    with pytest.raises(UserError, match="does not know run"):
        tracking.attach(run.id)


def test_a_deleted_experiment_is_told(store: str) -> None:
    Path("params.yaml").write_text(PARAMS.replace("{", "{experiment: deleted, "))
    os.utime("params.yaml", (1, 1))
    tracking.client().delete_experiment(tracking.experiment_id())
    with pytest.raises(
        UserError, match=r"the MLflow experiment 'deleted' is deleted; restore it or set tracking"
    ):
        tracking.start("x", {})


# The registry


def logged(run: Run, folder: Path) -> str:
    """A bundle as the MLflow model of a run, as `export` logs it; gives the model's URI."""
    (folder / "bundle" / "golden").mkdir(parents=True)
    (folder / "bundle" / "spec.json").write_text(run.id)
    (folder / "bundle" / "golden" / "golden.json").write_text("{}")
    return log_model(run, folder / "bundle")


def test_history_is_kept_as_the_alias_moves(
    store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert registry.champion("digits") is None
    runs = [tracking.start(f"train-{number}", {}) for number in range(2)]
    sources = [logged(run, tmp_path / run.id) for run in runs]
    assert capfd.readouterr().out == "", "MLflow's own notes would stand between a stage's lines"
    first = registry.register("digits", sources[0], runs[0], {**RECEIPT, "model_version": "v1"})
    assert registry.champion("digits") is None, "a registered version is no champion yet"
    registry.crown("digits", first)
    expected = Champion("digits", first, "v1", runs[0].id, sources[0], "")
    assert registry.champion("digits") == expected
    before = tracking.client().get_model_version("digits", first)

    second = registry.register("digits", sources[1], runs[1], {**RECEIPT, "verdict": "rejected"})
    assert int(second) == int(first) + 1
    assert registry.champion("digits") == expected, "a rejected version changes nothing"
    registry.crown("digits", second)
    champion = registry.champion("digits")
    assert champion is not None
    assert (champion.number, champion.run_id) == (second, runs[1].id)
    after = tracking.client().get_model_version("digits", first)
    for kept in ("tags", "source", "run_id", "description", "creation_timestamp", "last_updated_timestamp"):
        assert getattr(after, kept) == getattr(before, kept), kept
    assert after.tags == {**RECEIPT, "model_version": "v1"}
    assert after.aliases == []
    for version, run in ((expected, runs[0]), (champion, runs[1])):
        bundle = registry.download_bundle(version, tmp_path / f"got-{version.number}")
        assert (bundle / "spec.json").read_text() == run.id
        assert (bundle / "golden" / "golden.json").exists()


def test_an_archive_that_is_not_the_certified_one_is_not_kept(store: str, tmp_path: Path) -> None:
    archive = tmp_path / "mar" / "numbers.mar"
    archive.parent.mkdir()
    archive.write_bytes(b"certified")
    run = tracking.start("shipped", {})
    digest = hashlib.sha256(b"certified").hexdigest()
    run.files(archive, registry.archive_place(digest))
    archive.write_bytes(b"exported anew")
    run.files(archive, registry.archive_place(hashlib.sha256(b"exported anew").hexdigest()))
    version = Champion("numbers", "3", "abc", run.id, "", digest)
    assert registry.download_archive(version, tmp_path / "good").read_bytes() == b"certified"
    forged = Champion("numbers", "3", "abc", run.id, "", digest[:12] + "0" * 52)
    with pytest.raises(UserError) as told:
        registry.download_archive(forged, tmp_path / "bad")
    assert str(told.value).startswith(
        f"the archive of numbers version 3 has SHA-256 {digest[:12]}..., its receipt"
    )
    assert [path for path in (tmp_path / "bad").rglob("*") if path.is_file()] == []


def test_what_the_store_does_not_hold_is_told(store: str, tmp_path: Path) -> None:
    run = tracking.start("empty", {})
    missing = Champion("nothing", "1", "abc", run.id, f"runs:/{run.id}/nothing", "")
    with pytest.raises(UserError, match=r"artifacts/bundle cannot be fetched from the MLflow store"):
        registry.download_bundle(missing, tmp_path / "none")
    with pytest.raises(UserError, match=r"archive/.*nothing.mar cannot be fetched"):
        registry.download_archive(missing, tmp_path / "none")


# A server that is not there

SCRIPT = """
from pipeline import tracking
from pipeline.core.stage import main
main(lambda: tracking.start("never", {}), "tune")
"""


def test_a_dead_server_ends_a_stage_soon_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    address = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment(MLFLOW_TRACKING_URI=address),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    (message,) = done.stderr.strip().splitlines()
    assert message.startswith(f"tune: the MLflow server at {address} does not answer (")
    assert "unset MLFLOW_TRACKING_URI" in message
    assert time.monotonic() - began < 10
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"], "nothing was made"


def test_a_server_that_hangs_is_given_up_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        forget()
        began = time.monotonic()
        with pytest.raises(UserError, match=r"does not answer \(timed out\)"):
            tracking.client()
        assert time.monotonic() - began < 10


def test_a_server_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server}/nowhere")
    forget()
    with pytest.raises(UserError, match=r"/nowhere does not answer \(Client error '404"):
        tracking.client()


# The pages


def fairlead_ui(folder: Path, port: int, **more: str) -> subprocess.Popen[str]:
    (folder / "params.yaml").write_text(PARAMS)
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port)], cwd=folder, env=environment(**more),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_open_and_end_leaving_no_process_and_no_port(
    end: signal.Signals, local_folder: Path
) -> None:
    port = free_port()
    process = fairlead_ui(local_folder, port)
    members = family(process.pid)
    try:
        wait_healthy(process, port)
        members = family(process.pid)
        assert 3 <= len(members) <= 5, "no job runners beside the server and its worker"
        process.send_signal(end)
        out, err = process.communicate(timeout=30)
        left = [member for member in members if member.is_running()]
    finally:
        for member in members:
            if member.is_running():
                member.kill()
    assert left == []
    assert process.returncode == 0
    assert re.search(
        rf"MLflow on http://127\.0\.0\.1:{port}/#/experiments/\d+/runs\?\S+ \(Ctrl-C ends it\)", out
    )
    assert "Traceback" not in err
    assert not answers(port)


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = fairlead_ui(tmp_path, port)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == f"error: port {port} is in use; stop what holds it, or give another: --port N\n"


def test_a_store_that_is_a_server_has_pages_of_its_own(tmp_path: Path) -> None:
    process = fairlead_ui(tmp_path, free_port(), MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == "error: the runs are on the MLflow server http://127.0.0.1:9; open that address\n"

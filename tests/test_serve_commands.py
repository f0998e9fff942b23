"""`fairlead serve` in a project with a registry: what is served, how it changes, and what is kept of that."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner, Result

from pipeline import endpoint, history, mlflow_store, served
from pipeline.cli import app
from serving.process import free_ports, running, stop
from serving.state import read_models
from tests.live import PNG, closed, processes_of
from tests.serving import another, broken, registered
from tests.stores import PARAMS, forget

slow = pytest.mark.slow
VERSIONS = ("aaaaaaaaaaa1", "bbbbbbbbbbb2", "ccccccccccc3")


def fairlead(*words: str) -> Result:
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def works(*words: str) -> str:
    done = fairlead(*words)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: str) -> str:
    done = fairlead(*words)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    return done.output


@pytest.fixture(scope="module")
def project(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose registry has two promoted versions of digits, a rejected one, and one of letters."""
    folder, before = tmp_path_factory.mktemp("project"), Path.cwd()
    uri = os.environ.pop("MLFLOW_TRACKING_URI", None)
    server = {**free_ports(), "workers": 1, "response_timeout": 2}
    # MLflow keeps a store for each address in one process, so this one must not be called as another test's.
    store = {"tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
    params = {**yaml.safe_load(PARAMS), **store, "server": server, "certify": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    os.chdir(folder)
    forget()
    archives = {version: another(bundle, folder / "made" / version, version) for version in VERSIONS}
    registered(archives[VERSIONS[0]], VERSIONS[0])
    registered(archives[VERSIONS[2]], VERSIONS[2], "rejected")
    registered(another(bundle, folder / "made" / "letters", VERSIONS[0], "letters"), VERSIONS[0])
    yield folder
    stop(endpoint.FOLDER)
    os.chdir(before)
    forget()
    if uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri


def answering(name: str | None = None) -> str:
    with served.client(name) as client:
        return str(client.predict(PNG)["model_version"])


def promote(project: Path, version: str) -> str:
    return registered(project / "made" / version / "digits.mar", version)


# --- the history alone


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rollbacks_go_further_back_and_never_to_what_was_given_up(empty: Path) -> None:
    assert history.read() == []
    for action, before, after in (
        ("up", None, "a"),
        ("deploy", "a", "b"),
        ("up", "b", "b"),
        ("deploy", "b", "c"),
    ):
        history.record(action, "m", before, after)
    history.record("deploy", "m", "c", "d", ok=False, reason="broken")
    history.record("deploy", "other", "x", "y")
    history.record("canary-begin", "m", "c", "e")
    assert history.defaults("m") == ["a", "b", "c"]
    assert not history.given_up("m", "c")
    history.record("rollback", "m", "c", "b")
    assert history.defaults("m") == ["a", "b"]
    assert history.given_up("m", "c")
    history.record("rollback", "m", "b", "a")
    assert history.defaults("m") == ["a"]
    history.record("deploy", "m", "a", "c")
    assert not history.given_up("m", "c")
    assert history.defaults("m") == ["a", "c"]


def test_a_line_cut_short_spoils_no_other(empty: Path) -> None:
    history.record("up", "m", None, "a")
    whole = history.FILE.read_bytes()
    history.FILE.write_bytes(whole + whole[: len(whole) // 2])
    history.record("deploy", "m", "a", "b")
    assert history.FILE.read_bytes().startswith(whole), "nothing is rewritten"
    assert [change.after for change in history.read()] == ["a", "b"]
    assert "@" in history.read()[0].who


def test_commands_without_a_server_say_so(empty: Path) -> None:
    (empty / "params.yaml").write_text(PARAMS)
    for words in (("deploy",), ("rollback",), ("status",), ("logs",)):
        assert "no server" in refused("serve", *words)
    assert "no server was running" in works("serve", "down")
    assert "nothing was served yet" in works("serve", "history")
    (endpoint.FOLDER / "models.json").write_text("{")
    assert "models.json cannot be read" in refused("serve", "up")
    assert "no server was running" in works("serve", "down")


# --- a project


@slow
def test_a_project_is_served_changed_and_brought_back(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, rejected = VERSIONS
    assert f"version {first}" in works("serve", "up")
    assert answering() == first
    assert "already running" in works("serve", "up")

    assert "was not promoted (rejected: as the test says)" in refused("serve", "deploy", rejected)
    assert "has no version '99'" in refused("serve", "deploy", "99")
    assert f"version {first} of digits serves already" in works("serve", "deploy", "champion")
    assert "has no version 'nobody'" in refused("serve", "deploy", "nobody")
    assert "--name '../digits'" in refused("serve", "deploy", "--name", "../digits")
    assert answering() == first

    number = promote(project, second)
    said = works("serve", "up")
    assert f"loading version {second} beside what serves" in said, "a newer champion is rolled out"
    assert answering() == second
    tags = mlflow_store.client().get_model_version("digits", number).tags
    assert tags.keys() >= {"served_at"}
    assert "served_until" in mlflow_store.client().get_model_version("digits", "1").tags

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # a rollback needs no registry
    forget()
    began = time.monotonic()
    said = works("serve", "rollback")
    assert answering() == first
    print(f"rolled back in {time.monotonic() - began:.1f} s, with the drain")
    assert "the registry does not say so yet" in said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    forget()
    assert "was rolled back from" in works("serve", "up"), "what was given up does not come back by itself"
    assert answering() == first
    assert "knows no version of 'digits' before" in refused("serve", "rollback")
    works("serve", "deploy", number)
    assert answering() == second


@slow
def test_other_models_stand_beside(project: Path) -> None:
    works("serve", "deploy", "--name", "letters")
    assert (answering(), answering("letters")) == (VERSIONS[1], VERSIONS[0])
    (project / "0.png").write_bytes(PNG)
    assert VERSIONS[0] in works("predict", "--model", "letters", "0.png")
    assert VERSIONS[1] in works("predict", "0.png")
    assert "serves digits, letters" in refused("predict", "--model", "numbers", "0.png")
    status = json.loads(works("serve", "status", "--json"))
    assert {name: model["default"] for name, model in status["models"].items()} == {
        "digits": VERSIONS[1],
        "letters": VERSIONS[0],
    }
    assert status["models"]["letters"]["versions"] == {VERSIONS[0]: {"ready": 1, "workers": 1, "waiting": 0}}
    shown = works("serve", "status")
    assert "/predictions/letters" in shown
    assert "1 of 1" in shown


@slow
def test_what_was_served_comes_back_as_it_was_certified(project: Path) -> None:
    live = running(endpoint.FOLDER)
    assert live
    processes = processes_of(live)
    assert "stopped" in works("serve", "down")
    assert not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert all(closed(url) for url in (live.url, live.management_url, live.metrics_url))
    assert not list(endpoint.FOLDER.glob("key_file*"))
    kept = read_models(endpoint.FOLDER)
    assert kept.models.keys() == {"digits", "letters"}

    forged = kept.models["digits"].versions[VERSIONS[1]]
    forged.write_bytes(forged.read_bytes() + b"more")
    works("serve", "up")
    assert read_models(endpoint.FOLDER) == kept
    assert not forged.read_bytes().endswith(b"more"), "what was tampered with was fetched anew"
    assert (answering(), answering("letters")) == (VERSIONS[1], VERSIONS[0])


@slow
def test_a_broken_champion_leaves_the_old_serving(project: Path, tmp_path: Path) -> None:
    made = project / "made" / VERSIONS[2] / "digits.mar"
    bad = broken(
        made, tmp_path / "bad", handler="def handle(batch, context):\n    if batch:\n        raise OSError"
    )
    number = registered(bad, VERSIONS[2])
    assert "golden request 0.png was not answered" in refused("serve", "up")
    assert answering() == VERSIONS[1]
    last = history.read()[-1]
    assert (last.ok, last.before, last.after) == (False, VERSIONS[1], VERSIONS[2])
    assert last.receipt
    assert last.receipt.registry_version == number


@slow
def test_the_history_tells_every_change(project: Path) -> None:
    lines = [
        json.loads(line) for line in works("serve", "history", "--json", "--name", "digits").splitlines()
    ]
    first, second, third = VERSIONS
    assert [(each["action"], each["from"], each["to"], each["ok"]) for each in lines] == [
        ("up", None, first, True),
        ("up", first, second, True),
        ("rollback", second, first, True),
        ("deploy", first, second, True),
        ("down", second, None, True),
        ("up", second, second, True),
        ("up", second, third, False),
    ]
    assert lines[0]["receipt"]["registry_version"] == "1"
    assert len(lines[0]["receipt"]["archive_sha256"]) == 64
    shown = works("serve", "history")
    assert "letters" in shown
    assert "rollback" in shown
    assert "==> server.log" in works("serve", "logs", "--lines", "3")

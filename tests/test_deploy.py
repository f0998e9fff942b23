"""Versions side by side in a real TorchServe, and how one takes another's place."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.client import Client
from serving.deploy import Rollout, changing
from serving.endpoint import read_token
from serving.inputs.spec import read_json, write_json
from serving.management import Management, ManagementError
from serving.server import running
from serving.settings import ServerError
from serving.state import MODELS, Models, check_archive, of_archive, read_models, write_models
from serving.torchserve import TorchServe
from tests.live import PNG, settings_of, until
from tests.serving import another, archived, broken

# So slow that what many clients ask waits in a queue, whatever the machine.
SLOWED = """
import time
_answer = handle
def handle(batch, context):
    if batch:
        time.sleep(0.02)
    return _answer(batch, context)
"""
SETTINGS = settings_of(response_timeout=2, batch_size=4)
slow = pytest.mark.slow  # starts a real server


@pytest.fixture(scope="module")
def archives(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Versions `one` and `two` of digits, and `one` of letters."""
    root = tmp_path_factory.mktemp("archives")
    found = {}
    for version in ("one", "two", "three"):
        fast = another(bundle, root / "fast" / version, version)
        found[version] = broken(fast, root / version, handler=f"{archived('handler.py', fast)}\n{SLOWED}")
    return {**found, "letters": another(bundle, root / "letters", "one", "letters")}


# --- models.json


def test_what_must_run_is_kept_whole(tmp_path: Path, archive: Path) -> None:
    assert read_models(tmp_path) == Models()
    models = of_archive(archive).serving("digits", "two", Path("two.mar"))
    assert models.models["digits"].default == "two"
    assert len(models.models["digits"].versions) == 2
    assert next(version for _, version, _ in models.every()) == "two", "the default comes first"
    write_models(tmp_path, models)
    assert read_models(tmp_path) == models
    assert [path.name for path in tmp_path.iterdir()] == [MODELS]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"models": {"m": {"default": "2", "versions": {"1": "a.mar"}}}}', '{"model": {}}']
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MODELS).write_text(content)
    with pytest.raises(ServerError, match=r"models\.json cannot be read"):
        read_models(tmp_path)


def test_an_archive_must_be_what_its_receipt_says(archives: dict[str, Path], tmp_path: Path) -> None:
    archive = tmp_path / "digits.mar"
    shutil.copy(archives["one"], archive)
    check_archive("digits", "one", archive)
    with pytest.raises(ServerError, match="holds digits version one; expected digits version two"):
        check_archive("digits", "two", archive)
    write_json(tmp_path / "receipt.json", {"archive_sha256": "0" * 64})
    with pytest.raises(ServerError, match="not what was certified"):
        check_archive("digits", "one", archive)


# --- a server of several


@pytest.fixture(scope="module")
def server(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder whose server runs two versions of one model, and another model."""
    folder = tmp_path_factory.mktemp("state")
    models = of_archive(archives["two"]).beside("digits", "one", archives["one"])
    write_models(folder, models.serving("letters", "one", archives["letters"]))
    started = TorchServe(None, SETTINGS, folder, model_api=True)
    started.start(PNG, "image/png")
    yield folder
    started.stop()


def ask(folder: Path, path: str) -> str:
    endpoint = running(folder)
    assert endpoint
    with Client(endpoint.url, read_token(folder), path) as client:
        return str(client.predict(PNG)["model_version"])


@slow
def test_every_version_of_every_model_answers(server: Path) -> None:
    paths = ("digits", "digits/one", "digits/two", "letters", "letters/one")
    assert [ask(server, path) for path in paths] == ["two", "one", "two", "one", "one"]
    with Management(server) as management:
        assert sorted(management.names()) == ["digits", "letters"]
        assert management.default("digits") == "two"
        assert {version: found.ready for version, found in management.versions("digits").items()} == {
            "one": 1,
            "two": 1,
        }
        assert management.versions("nothing") == {}
        assert management.default("nothing") is None
        with pytest.raises(ManagementError, match="404"):
            management.set_default("digits", "three")
        with pytest.raises(ManagementError, match="403"):
            management.unregister("digits", "two")


@slow
def test_management_loads_from_no_address_and_for_nobody_without_its_token(
    server: Path, archives: dict[str, Path]
) -> None:
    endpoint = running(server)
    assert endpoint
    with Management(server) as management:
        before = {name: management.versions(name).keys() for name in management.names()}
        url = f"{endpoint.management_url}/models"
        for headers in ({}, {"Authorization": f"Bearer {read_token(server)}"}):
            asked = {"url": "digits-one.mar", "initial_workers": "1"}
            assert httpx.post(url, params=asked, headers=headers, trust_env=False).status_code == 400
            assert httpx.delete(f"{url}/letters", headers=headers, trust_env=False).status_code == 400
        headers = {"Authorization": f"Bearer {read_token(server, 'management')}"}
        for address in ("http://127.0.0.1:1/a.mar", f"file://{archives['one']}", "../../one/digits.mar"):
            answer = httpx.post(url, params={"url": address}, headers=headers, trust_env=False)
            assert answer.status_code in (400, 404, 500), answer.text
        assert {name: management.versions(name).keys() for name in management.names()} == before


# --- one in another's place


class Load:
    """Clients that ask without a pause, each over a connection of its own, and what they were answered."""

    def __init__(self, folder: Path, path: str, connections: int) -> None:
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(folder, path)) for _ in range(connections)]

    def _ask(self, folder: Path, path: str) -> None:
        endpoint = running(folder)
        assert endpoint
        headers = {"Authorization": f"Bearer {read_token(folder)}", "Content-Type": "image/png"}
        with httpx.Client(headers=headers, trust_env=False, timeout=30) as client:
            while not self._ends.is_set():
                try:
                    answer = client.post(f"{endpoint.url}/predictions/{path}", content=PNG)
                    self.versions[answer.json()["model_version"]] += 1
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    self.failures.append(f"{error!r}")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(40)


def rollout(folder: Path, said: list[str] | None = None) -> Rollout:
    return Rollout(folder, SETTINGS, 1e-4, (said if said is not None else []).append)


@slow
def test_no_request_is_lost_while_versions_take_each_others_place(
    server: Path, archives: dict[str, Path]
) -> None:
    waiting: list[int] = []  # in the queue of the version that has just stopped being the default

    def watch(step: str) -> None:
        if "is what serves now" in step:
            with Management(server) as management:
                waiting.append(max(found.pending for found in management.versions("digits").values()))

    with Load(server, "digits", 32) as load:
        with changing(server), Rollout(server, SETTINGS, 1e-4, watch) as change:
            change.repair()
            for version in ("one", "two"):
                assert change.replace("digits", version, archives[version]) is not None
        time.sleep(0.2)
    assert load.failures == []
    assert load.versions.keys() == {"one", "two"}
    assert load.versions.total() > 1000
    assert len(waiting) == 2
    assert min(waiting) > 0, "so that a lost one would show"


DIES = "import os\ndef handle(batch, context):\n    if batch:\n        os._exit(1)"


@slow
@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        ("import no_such_module\ndef handle(batch, context): ...", "(?s)worker ended.*no_such_module"),
        (DIES, "golden request 0.png was not answered: 50"),
    ],
    ids=["cannot load", "dies"],
)
def test_a_broken_version_leaves_the_old_serving(
    server: Path, archives: dict[str, Path], tmp_path: Path, handler: str, cause: str
) -> None:
    bad = broken(archives["three"], tmp_path / "bad", handler=handler)
    _refused(server, bad, cause)


@slow
def test_a_version_that_answers_otherwise_leaves_the_old_serving(
    server: Path, archives: dict[str, Path], tmp_path: Path
) -> None:
    bad = broken(archives["three"], tmp_path / "bad")
    golden = read_json(bad.parent / "bundle" / "golden" / "golden.json")
    shares = golden["requests"][0]["probabilities"]
    shares["a"], shares["b"] = shares["b"] + 0.01, shares["a"] - 0.01
    write_json(bad.parent / "bundle" / "golden" / "golden.json", golden)
    _refused(server, bad, "golden request 0.png was answered otherwise than certified, by 0")
    (bad.parent / "bundle" / "bundle.json").unlink()
    bad.write_bytes(archives["one"].read_bytes())
    _refused(server, bad, "expected digits version three")


def _refused(server: Path, bad: Path, cause: str) -> None:
    """Deploying `bad` fails while clients ask, none of whom notices."""
    before = read_models(server)
    with Load(server, "digits", 4) as load, changing(server), rollout(server) as change:
        change.repair()
        with pytest.raises(ServerError, match=cause):
            change.replace("digits", "three", bad)
        until(lambda: sum(load.versions.values()) > 20)
    assert load.failures == []
    assert load.versions.keys() == {before.models["digits"].default}
    assert read_models(server) == before
    with Management(server) as management:
        assert management.versions("digits").keys() == before.models["digits"].versions.keys()


@slow
def test_what_a_killed_change_left_is_taken_away(server: Path, archives: dict[str, Path]) -> None:
    """Killed beside the old, and once more after the switch: the next change ends both."""
    before = read_models(server).models["digits"].default
    for later in (False, True):
        script = KILLED.format(folder=str(server), archive=str(archives["three"]), later=later)
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
        with Management(server) as management:
            assert management.versions("digits").keys() == {before, "three"}
        said: list[str] = []
        with changing(server), rollout(server, said) as change:
            change.repair()
        serves = "three" if later else before
        with Management(server) as management:
            assert management.versions("digits").keys() == {serves}
        assert ask(server, "digits") == serves
        assert "was left by a change that did not end" in said[0]


KILLED = """
import os, signal
from pathlib import Path
from serving.deploy import Rollout, changing
from serving.server import ServerSettings
folder, archive = Path({folder!r}), Path({archive!r})
with changing(folder), Rollout(folder, ServerSettings(workers=1, response_timeout=2), 1e-4, print) as change:
    change.add("digits", "three", archive)
    if {later}:
        change.switch("digits", "three", archive)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@slow
def test_what_must_run_and_does_not_is_brought_back(server: Path, archives: dict[str, Path]) -> None:
    before = read_models(server)
    default = before.models["digits"].default
    missing = "one" if default != "one" else "two"
    write_models(server, before.beside("digits", missing, archives[missing]))
    with changing(server), rollout(server) as change:
        change.repair()
        assert ask(server, f"digits/{missing}") == missing
        write_models(server, before)
        change.repair()
    with Management(server) as management:
        assert management.versions("digits").keys() == {default}


def test_a_full_disk_loses_nothing_that_must_run(tmp_path: Path, archive: Path) -> None:
    write_models(tmp_path, of_archive(archive))
    before = (tmp_path / MODELS).read_bytes()
    (tmp_path / f".{MODELS}.{os.getpid()}").mkdir()  # what the new one is written to cannot be
    with pytest.raises(ServerError, match=r"models\.json cannot be written"):
        write_models(tmp_path, Models())
    assert (tmp_path / MODELS).read_bytes() == before


@slow
def test_an_interruption_leaves_the_old_serving(server: Path, archives: dict[str, Path]) -> None:
    before = read_models(server)

    def interrupt(step: str) -> None:
        if "workers ready" in step:
            raise KeyboardInterrupt

    change = Rollout(server, SETTINGS, 1e-4, interrupt)
    with changing(server), change, pytest.raises(KeyboardInterrupt):
        change.replace("digits", "two", archives["two"])
    assert read_models(server) == before
    with Management(server) as management:
        assert management.versions("digits").keys() == before.models["digits"].versions.keys()


def test_two_changes_at_once_are_refused(tmp_path: Path) -> None:
    with (
        changing(tmp_path),
        pytest.raises(ServerError, match=rf"under way \(pid {os.getpid()}\)"),
        changing(tmp_path),
    ):
        raise AssertionError("both went on")
    with changing(tmp_path):
        pass

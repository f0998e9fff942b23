"""Versions side by side in a real TorchServe, and how one takes another's place."""

from __future__ import annotations

import shutil
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.archive import build_archive
from serving.client import Client, read_token
from serving.config import ServerError
from serving.deploy import Rollout, changing
from serving.inputs.spec import Transform, write_json
from serving.management import Management, ManagementError
from serving.predictor import Predictor
from serving.server import TorchServe, running
from serving.state import MODELS, Models, check_archive, of_archive, read_models, sha256, write_models
from tests.live import PNG, settings_of

slow = pytest.mark.slow  # starts a real server


def another(bundle: Path, folder: Path, version: str, name: str = "digits") -> Path:
    """The archive of a bundle that calls itself another version, as the store keeps it."""
    folder.mkdir()
    shutil.copytree(bundle, folder / "bundle")
    write_json(folder / "bundle" / "bundle.json", {"version": version})
    write_json(folder / "bundle" / "transform.json", Transform())
    expected = Predictor(bundle).answer([PNG])[0]
    assert isinstance(expected, dict)
    golden = [{"file": "0.png", "content_type": "image/png", **expected}]
    write_json(folder / "bundle" / "golden" / "golden.json", {"requests": golden})
    archive = folder / f"{name}.mar"
    build_archive(folder / "bundle", archive, name)
    write_json(folder / "receipt.json", {"archive_sha256": sha256(archive)})
    return archive


def broken(archive: Path, folder: Path, **changes: str) -> Path:
    """The same version with other files inside its archive, or with other golden answers, and a receipt of its own."""
    shutil.copytree(archive.parent, folder)
    found = folder / archive.name
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(found, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, changes.get(Path(name).stem, good.read(name)))
    write_json(folder / "receipt.json", {"archive_sha256": sha256(found)})
    return found


@pytest.fixture(scope="module")
def archives(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Versions `one` and `two` of digits, and `one` of letters."""
    root = tmp_path_factory.mktemp("archives")
    found = {version: another(bundle, root / version, version) for version in ("one", "two")}
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
    started = TorchServe(None, settings_of(response_timeout=1), folder, model_api=True)
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
    return Rollout(folder, settings_of(response_timeout=1), 1e-4, (said if said is not None else []).append)


@slow
def test_no_request_is_lost_while_versions_take_each_others_place(
    server: Path, archives: dict[str, Path]
) -> None:
    longest = 0
    with Load(server, "digits", 24) as load:
        with changing(server), rollout(server) as change:
            change.repair()
            for version in ("one", "two"):
                assert change.replace("digits", version, archives[version]) is not None
                with Management(server) as management:
                    longest = max(longest, management.versions("digits")[version].pending)
        time.sleep(0.2)
    assert load.failures == []
    assert load.versions.keys() == {"one", "two"}
    assert min(load.versions.values()) > 200
    assert longest > 0, "requests waited in a queue, so that a lost one would show"

"""Versions side by side in a real TorchServe, and how one takes another's place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.archive import build_archive
from serving.client import Client, read_token
from serving.config import ServerError
from serving.inputs.spec import write_json
from serving.management import Management, ManagementError
from serving.server import TorchServe, running
from serving.state import MODELS, Models, check_archive, of_archive, read_models, write_models
from tests.live import PNG, settings_of

slow = pytest.mark.slow  # starts a real server


def another(bundle: Path, folder: Path, version: str, name: str = "digits") -> Path:
    """The archive of a bundle that calls itself another version."""
    folder.mkdir()
    shutil.copytree(bundle, folder / "bundle")
    write_json(folder / "bundle" / "bundle.json", {"version": version})
    build_archive(folder / "bundle", folder / f"{name}.mar", name)
    return folder / f"{name}.mar"


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

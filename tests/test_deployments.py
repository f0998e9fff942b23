"""What `deploy/` holds for a team and for clusters, as far as can be told without one: schemas, linters, sense."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from serving.server import free_ports
from tests.conftest import ROOT

DEPLOY, SCHEMAS = ROOT / "deploy", ROOT / "tests/schemas"
ONCE = {"buckets"}  # services that end


def check(document: Any, schema: str) -> None:
    """Raise where a document is not right by its published schema."""
    content = json.loads((SCHEMAS / schema).read_text())
    content.pop("$schema", None)
    jsonschema.Draft202012Validator(content).validate(document)


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


@pytest.fixture
def rayjob() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "rayjob.yaml").read_text()))


# Compose


def test_the_compose_file_is_right_by_the_published_schema(compose: dict[str, Any]) -> None:
    check(compose, "compose.json")
    asked = {"postgres", "objects", "mlflow", "torchserve", "prometheus", "grafana"}
    assert asked <= compose["services"].keys()
    for wrong in ({"portz": []}, {"image": 3}, {"healthcheck": {"test": 1}}, {"ports": {"a": "b"}}):
        changed = {**compose, "services": {"mlflow": {**compose["services"]["mlflow"], **wrong}}}
        with pytest.raises(jsonschema.ValidationError):
            check(changed, "compose.json")


def test_services_are_healthy_private_and_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        assert ("healthcheck" in service) == (name not in ONCE), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        image = service.get("image", "")
        assert ("build" in service) != bool(re.search(r":[\w.]*\d[\w.]*$", image)), (
            f"{name}: a version is pinned"
        )
        if "build" in service:
            assert f" AS {service['build']['target']}\n" in (DEPLOY / "Dockerfile").read_text()
        for other in service.get("depends_on", {}):
            assert other in services
        for each in service.get("volumes", []):
            source = each.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists() or source == "../data/export"
        assert {each["source"] for each in service.get("configs", [])} <= compose["configs"].keys()


def test_secrets_come_from_the_environment_alone(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{(\w+):\?\}", text))
    listed = re.findall(r"^(\w+)=(.*)$", (DEPLOY / "compose.env").read_text(), re.MULTILINE)
    assert asked == {name for name, _ in listed}
    assert {value for _, value in listed} == {""}, "no secret is given away"
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|ACCESS_KEY|STORE_URI", name)
            assert not secret or "${" in value, name


def test_configurations_within_the_compose_file_are_read_as_their_programs_do(
    compose: dict[str, Any],
) -> None:
    held = {name: each["content"] for name, each in compose["configs"].items()}
    json.loads(held["s3"])
    prometheus = yaml.safe_load(held["prometheus"])
    own = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert prometheus["rule_files"] == own["rule_files"]
    jobs = [each["job_name"] for each in prometheus["scrape_configs"]]
    assert jobs == [each["job_name"] for each in own["scrape_configs"]], "which the alerts go by"
    for name in ("datasource", "dashboards"):
        assert yaml.safe_load(held[name])["apiVersion"] == 1


def test_docker_takes_the_compose_file() -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose here")
    given = dict.fromkeys(("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD"), "x")
    words = ["docker", "compose", "-f", "deploy/compose.yaml", "config", "--quiet"]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **given}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_for_prometheus_is_served_beside_a_container(tmp_path: Path) -> None:
    (tmp_path / "fairlead-1").mkdir()
    ports = free_ports()
    given = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "FAIRLEAD_SERVER": json.dumps(ports),
        "PYTHONPATH": str(ROOT),
    }
    words = [sys.executable, "-m", "serving.container", "metrics", "--host", "127.0.0.1"]
    with subprocess.Popen(words, env=given, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline, page = time.monotonic() + 60, ""
            while not page:
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < deadline
                try:
                    page = httpx.get(f"http://127.0.0.1:{ports['prometheus_port']}/metrics").text
                except httpx.HTTPError:
                    time.sleep(0.1)
            assert "fairlead_server_up 0.0" in page
            shutil.rmtree(tmp_path / "fairlead-1")
            assert process.wait(30) == 0, "it ends with the server, to be started anew with the next"
        finally:
            process.kill()


# Kubernetes


def test_the_ray_job_is_right_by_the_published_schema(rayjob: dict[str, Any]) -> None:
    check(rayjob, "rayjob.v1.json")
    text = (DEPLOY / "rayjob.yaml").read_text()
    for right, wrong in (
        ("entrypoint:", "entryPoint:"), ("backoffLimit: 2", "backoffLimit: two"), ("groupName:", "groupname:"),
        ("minReplicas: 0", "minReplicas: none"), ("volumeMounts: &", "mounts: &"), ("mode: token", "mode: [1]"),
        ("requests: {cpu: \"4\"", "requests: {cpu: [4]"),
    ):  # fmt: skip
        assert right in text
        with pytest.raises(jsonschema.ValidationError):
            check(yaml.safe_load(text.replace(right, wrong)), "rayjob.v1.json")


def test_the_ray_job_runs_the_road_with_our_ray_and_without_privileges(rayjob: dict[str, Any]) -> None:
    spec = rayjob["spec"]
    assert "dvc repro" in spec["entrypoint"]
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounted["project"] == "/project", "all see the project at one place"
        assert mounted.keys() == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["limits"]["memory"]
    assert cluster["authOptions"] == {"mode": "token"}


# Slurm


def test_the_slurm_script_is_clean_and_asks_what_sbatch_knows() -> None:
    script = DEPLOY / "slurm.sh"
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck, "of the extra dev"
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "make repro" in script.read_text()
    assert unknown(script.read_text()) == []
    for wrong in ("--node=2", "--nodes", "--requeue=yes", "-Z 3"):
        assert unknown(f"#SBATCH {wrong}\n") == [wrong]


def unknown(script: str) -> list[str]:
    """The #SBATCH options of a script that sbatch does not document, or not so."""
    words = (SCHEMAS / "sbatch.txt").read_text().partition("\n")[2].split()
    asked = re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)
    assert asked
    return [option for option in asked if re.sub("=.*", "=", option.removeprefix("--")) not in words]

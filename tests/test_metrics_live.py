"""What is seen of a server from outside: metrics, dashboard and alerts, readiness, logs; a front with TLS before it."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.config import LOG
from serving.endpoint import Endpoint, read_endpoint, read_token
from serving.process import stop
from serving.settings import ServerSettings
from serving.state import of_archive, write_models
from serving.supervisor import Plan, supervise
from serving.worker.record import read_log
from tests.certificates import write_certificate
from tests.live import PNG, VERSION, closed, mentioning, same_answer, settings_of

pytestmark = pytest.mark.slow
DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = DEPLOY / "grafana/fairlead.json"


def awaited(what: Callable[[], Any]) -> Any:
    """What must come, for a minute at most."""
    end = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServerSettings:
    certificate, key = write_certificate(tmp_path_factory.mktemp("certificate"))
    tls = {"tls_certificate": str(certificate), "tls_key": str(key)}
    return settings_of(max_request_bytes=200_000, **tls)


@pytest.fixture(scope="module")
def state(stored: Path, settings: ServerSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("state")
    write_models(folder, of_archive(stored))
    try:
        supervise(folder, Plan(settings=settings))
        yield folder
    finally:
        stop(folder)
    assert not mentioning(folder), "neither the server nor its front is left"
    assert closed(str(settings.front_url))


@pytest.fixture(scope="module")
def front(state: Path, settings: ServerSettings) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {read_token(state)}"}
    trusted = ssl.create_default_context(cafile=str(settings.tls_certificate))
    url = str(settings.front_url)
    with httpx.Client(base_url=url, headers=headers, verify=trusted, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def page(front: httpx.Client, settings: ServerSettings) -> str:
    """The metrics after two good requests and a bad one, once each worker has written its counts."""
    for body in (PNG, PNG, b"rubbish"):
        front.post("/predictions/digits", content=body, headers={"Content-Type": "image/png"})
    address = f"http://127.0.0.1:{settings.prometheus_port}/metrics"

    def look() -> str | None:
        text = httpx.get(address, trust_env=False).text
        return text if 'status="400"' in text and "ts_queue_latency_microseconds{" in text else None

    return awaited(look)


def _endpoint(state: Path) -> Endpoint:
    return read_endpoint(state)


# --- metrics


def test_the_page_adds_the_workers_counts_to_the_servers_own(page: str) -> None:
    samples = [each for family in text_string_to_metric_families(page) for each in family.samples]
    by_status: dict[str, float] = {}
    for each in samples:
        if each.name == "fairlead_requests_total":
            assert (each.labels["model"], each.labels["version"]) == ("digits", VERSION)
            by_status[each.labels["status"]] = by_status.get(each.labels["status"], 0) + each.value
    assert by_status["400"] == 1
    assert by_status["200"] >= 3, "two of ours, and the one that said that the server is ready"
    single = {
        each.name: each.value
        for each in samples
        if each.name.startswith("fairlead_") and not each.labels.get("le")
    }
    assert single["fairlead_server_up"] == single["fairlead_model_info"] == single["fairlead_workers"] == 1
    assert any(each.name == "ts_inference_requests_total" for each in samples), "TorchServe's own"


def _expressions() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(alerts) >= 6
    assert len(shown) >= 10
    return alerts + shown


SELECTOR = re.compile(r"\b([a-z][a-z0-9_]*_[a-z0-9_]+)(?:\{([^}]*)\})?")
FUNCTIONS = {"histogram_quantile", "label_replace", "count_values", "sum_over_time", "avg_over_time"}


def test_every_metric_and_label_of_dashboard_and_alerts_is_on_the_page(page: str) -> None:
    known: dict[str, set[str]] = {}
    # By hand, as Prometheus reads it: the client's parser adds `_total` to TorchServe's names.
    for name, labels in re.findall(r"^([a-zA-Z_]\w*)(?:\{(.*)\})? \S+$", page, re.MULTILINE):
        known.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    used = set()
    for expression in _expressions():
        bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", "", expression)
        names = [(name, labels) for name, labels in SELECTOR.findall(bare) if name not in FUNCTIONS]
        assert names, expression
        for name, labels in names:
            assert name in known, f"{name} in {expression} is on no page"
            asked = set(re.findall(r"([a-z_]+)\s*[!=]", labels)) - {"job", "instance"}
            assert asked <= known[name], expression
            used.add(name)
        for grouped in re.findall(r"\bby\s*\(([^)]*)\)", expression):
            labels = {label.strip() for label in grouped.split(",")} - {"job", "instance"}
            assert labels <= set().union(*(known[name] for name, _ in names)), expression
    assert len(used) >= 7, used


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert board["uid"]
    assert board["title"]
    assert board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    source = {"type": "prometheus", "uid": "${source}"}
    variables = {each["name"] for each in board["templating"]["list"]}
    assert {"source", "model"} <= variables
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["title"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, f"{panel['title']} lies over another panel"
        places |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == source
            assert panel["targets"]


def test_prometheus_scrapes_the_page_and_reads_the_alerts(settings: ServerSettings) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"127.0.0.1:{ServerSettings().prometheus_port}"
    assert config["rule_files"] == ["alerts.yml"]
    rules: list[dict[str, Any]] = [
        rule
        for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


# --- readiness


def test_ready_means_that_every_model_answers(
    state: Path, stored: Path, settings: ServerSettings, front: httpx.Client
) -> None:
    address = f"http://127.0.0.1:{settings.prometheus_port}/ready"
    assert front.get("/ping").json() == {"status": "Healthy", "models": {"digits": None}}
    write_models(state, of_archive(stored).serving("missing", "1", stored))
    try:
        answer = awaited(lambda: found if (found := front.get("/ping")).status_code == 503 else None)
        assert answer.json()["status"] == "Unhealthy"
        assert answer.json()["models"]["digits"] is None
        assert "404" in answer.json()["models"]["missing"]
        assert httpx.get(f"{_endpoint(state).url}/ping", headers=front.headers, trust_env=False).is_success, (
            "TorchServe's own /ping knows nothing of it"
        )
    finally:
        write_models(state, of_archive(stored))
    awaited(lambda: httpx.get(address, trust_env=False).is_success)


# --- logs


def test_an_answer_through_the_front_is_found_in_each_log_by_its_id(
    state: Path, bundle: Path, front: httpx.Client
) -> None:
    headers = {"Content-Type": "image/png", "X-Request-Id": "find-me-1"}
    answer = front.post("/predictions/digits", content=PNG, headers=headers)
    same_answer(answer.json(), bundle)
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "find-me-1"
    entry = awaited(
        lambda: next((each for each in read_log(state) if "find-me-1" in json.dumps(each["requests"])), None)
    )
    assert ["find-me-1", 200, answer.json()["label"]] in entry["requests"]
    assert (entry["model"], entry["version"]) == ("digits", VERSION)
    access = awaited(
        lambda: [line for line in (state / "access.log").read_text().splitlines() if "find-me-1" in line]
    )
    assert json.loads(access[0])["status"] == 200
    assert read_token(state) not in (state / "access.log").read_text()


def test_every_line_of_the_servers_log_is_json(state: Path) -> None:
    lines = (state / LOG).read_text().splitlines()
    assert len(lines) > 3
    for line in lines:
        said = json.loads(line)
        assert set(said) == {"at", "level", "logger", "message", "raised"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)", said["at"])


# --- what can be reached


def test_only_the_front_could_be_reached_from_beyond_and_all_is_loopback_here(state: Path) -> None:
    """Java, its workers, the supervisor and Caddy: every socket that listens, whoever opened it."""
    ours = mentioning(state)
    assert {"java", "caddy"} <= {each.name() for each in ours}
    heard = [
        connection.laddr
        for process in {*ours, *(child for each in ours for child in each.children(recursive=True))}
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(heard) >= 7, "three of REST, two of gRPC, the metrics and the front"
    assert {address.ip.removeprefix("::ffff:") for address in heard} == {"127.0.0.1"}

"""Trials of a challenger in a project with a real TorchServe: who answers, how they end, and what is kept of that."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from pipeline import endpoint, history, mlflow_store
from pipeline.canary import Trial
from pipeline.canary_observed import Margins
from pipeline.canary_record import STOP, End, Look, Plan, latest
from pipeline.cli import app
from serving.deploy import changing
from serving.endpoint import read_token
from serving.management import Management
from serving.predictor import Predictor
from serving.process import free_ports, running, stop
from serving.state import read_models
from serving.worker.route import ROUTES, read_route
from tests.live import PNG
from tests.serving import another, archived, broken, registered
from tests.stores import PARAMS, forget

pytestmark = pytest.mark.slow
ONE, TWO, HANGS, FAILS = VERSIONS = ("aaaaaaaaaaa1", "bbbbbbbbbbb2", "ccccccccccc3", "ddddddddddd4")
ROOT = Path(__file__).parents[1]
# Margins wide enough for a few hundred requests on a busy machine.
WIDE = {"error": 0.1, "latency": 9.0, "quality": 0.2}
QUICK = Plan(
    share=0.3,
    minutes=1,
    min_requests=150,
    margins=Margins(errors=WIDE["error"], latency=WIDE["latency"], quality=WIDE["quality"]),
    look=0.5,
    lease=3,
)
BROKEN = """

whole = Worker.own


def own(self, requests):
    if any("x-fairlead-route" in each.headers for each in requests):
        {what}
    return whole(self, requests)


Worker.own = own
"""


@pytest.fixture(scope="module")
def project(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that serves ONE; TWO is as good, and two others misbehave when a champion's worker asks them."""
    folder, before = tmp_path_factory.mktemp("project"), Path.cwd()
    uri = os.environ.pop("MLFLOW_TRACKING_URI", None)
    store = {"tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
    server = {**free_ports(), "workers": 1, "response_timeout": 1}
    params = {**yaml.safe_load(PARAMS), **store, "server": server, "certify": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    os.chdir(folder)
    forget()
    made = {version: another(bundle, folder / "made" / version, version) for version in VERSIONS}
    for version, what in ((HANGS, "import time; time.sleep(30)"), (FAILS, "raise RuntimeError('not today')")):
        worker = archived("serving/worker/worker.py", made[version]) + BROKEN.format(what=what)
        broken(made[version], folder / "broken" / version, worker=worker)
    registered(made[ONE], ONE)
    assert CliRunner().invoke(app, ["serve", "up"]).exit_code == 0
    yield folder
    stop(endpoint.FOLDER)
    os.chdir(before)
    forget()
    if uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri


@dataclass
class Clients:
    """What clients that never stop asking get: by request id, the version that answered."""

    answered: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def versions(self) -> Counter[str]:
        return Counter(list(self.answered.values()))


@contextmanager
def asking(count: int = 4) -> Iterator[Clients]:
    """Clients that ask by the model's own address again and again, each request with an id of its own."""
    live, clients, over = running(endpoint.FOLDER), Clients(), threading.Event()
    assert live
    headers = {"Authorization": f"Bearer {read_token(endpoint.FOLDER)}", "Content-Type": "image/png"}
    began = time.monotonic_ns()

    def ask(number: int) -> None:
        with httpx.Client(headers=headers, trust_env=False, timeout=30) as http:
            for at in range(10**6):
                if over.is_set():
                    return
                name = f"{began}-{number}-{at}"
                address = f"{live.url}/predictions/digits"
                answer = http.post(address, content=PNG, headers={"X-Request-Id": name})
                if answer.status_code == 200 and answer.json()["request_id"] == name:
                    clients.answered[name] = answer.json()["model_version"]
                else:
                    clients.wrong.append(f"{answer.status_code} {answer.text[:200]}")
                time.sleep(0.01)  # the server, and what watches it, need the machine too

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not clients.wrong, clients.wrong[:3]


def until(done: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def served_alone(version: str) -> None:
    assert read_models(endpoint.FOLDER).models["digits"].default == version
    assert not (endpoint.FOLDER / ROUTES).exists()
    with Management(endpoint.FOLDER) as management:
        assert set(management.versions("digits")) == {version}


def tried(
    archive: Path, plan: Plan, show: Callable[[Look], None] = lambda _: None, clients: int = 4
) -> tuple[End, Look, Clients]:
    """A trial under load, and what the clients got from its begin to its end."""
    with changing(endpoint.FOLDER), endpoint.rollout(print) as change, asking(clients) as asked:
        end, look = Trial(change, "digits", archive.parent.name, archive, plan).run(show)
    found = latest(endpoint.FOLDER)
    assert found
    assert (found[1]["end"], found[1]["look"]["reason"]) == (end, look.reason)
    return end, look, asked


def test_a_challenger_that_hangs_is_rolled_back_and_no_client_sees_it(project: Path) -> None:
    # As nothing is sent for ever longer while it hangs, what was in flight before must tell: so many clients.
    hanging = project / "broken" / HANGS / "digits.mar"
    end, look, clients = tried(hanging, replace(QUICK, minutes=4), clients=16)
    assert end == "rolled back", look
    assert "errors" in look.reason
    assert set(clients.versions()) == {ONE}
    assert "ok" not in look.requests["challenger"]
    assert set(look.requests["control"]) == {"ok"}
    assert "timeout" in look.faults
    served_alone(ONE)


def test_a_shadow_answers_nobody_and_ends_when_it_is_told_to(project: Path) -> None:
    def end_it(look: Look) -> None:
        found = latest(endpoint.FOLDER)
        if look.agreed[1] > 50 and found:
            (found[0] / STOP).touch()

    plan = replace(QUICK, mode="shadow", share=0.5, min_requests=10**6)
    end, look, clients = tried(project / "made" / TWO / "digits.mar", plan, end_it)
    assert end == "withdrawn"
    assert set(clients.versions()) == {ONE}
    assert look.agreed[0] == look.agreed[1] > 50, "the same network says the same"
    served_alone(ONE)


WATCHER = """
from pathlib import Path
from pipeline import endpoint
from pipeline.canary import Trial
from pipeline.canary_record import Plan
from serving.deploy import changing

with changing(endpoint.FOLDER), endpoint.rollout(print) as change:
    plan = Plan(share=0.5, min_requests=10**6, lease=3)
    Trial(change, "digits", "{version}", Path("made/{version}/digits.mar"), plan).run(print)
"""


def test_when_the_watcher_is_killed_the_champion_answers_everybody_again(project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = WATCHER.format(version=TWO)
    watcher = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
    try:
        with asking() as clients:
            until(lambda: clients.versions()[TWO] > 20)
            done = CliRunner().invoke(app, ["serve", "deploy"])
            assert "another change of what is served is under way" in done.output
            watcher.kill()
            route = read_route((endpoint.FOLDER / ROUTES).read_text())
            assert {route.arm_of(name) for name, version in clients.answered.items() if version == TWO} == {
                "challenger"
            }
            until(lambda: time.time() > route.until + 0.5)
            after = len(clients.answered)
            until(lambda: len(clients.answered) > after + 200)
    finally:
        watcher.kill()
        watcher.wait()
    assert set(list(clients.answered.values())[after:]) == {ONE}
    done = CliRunner().invoke(app, ["serve", "canary", "--stop"])
    assert "withdrawn" in done.output
    assert history.read()[-1].reason == "its watcher was gone"
    served_alone(ONE)


def canary(version: str, *words: str) -> subprocess.Popen[str]:
    """The command, as a user gives it."""
    margins = [word for key, value in WIDE.items() for word in (f"--{key}-margin", str(value))]
    command = [sys.executable, "-m", "pipeline.cli", "serve", "canary", version, "--share", "0.3", *margins]
    command += ["--minutes", "2", "--min-requests", "150", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_challenger_that_fails_is_rolled_back_and_does_not_come_back_by_itself(project: Path) -> None:
    number = registered(project / "broken" / FAILS / "digits.mar", FAILS)
    watcher = canary(number)
    with asking() as clients:
        output, _ = watcher.communicate()
    assert watcher.returncode == 3, output
    assert "rolled back: errors" in output
    assert set(clients.versions()) == {ONE}
    served_alone(ONE)
    begin, end = history.read()[-2:]
    assert (begin.action, begin.before, begin.after) == ("canary-begin", ONE, FAILS)
    assert (end.action, end.before, end.after) == ("rollback", FAILS, ONE)
    assert end.shown
    assert end.shown["criteria"][0]["verdict"] == "harm"
    tags = mlflow_store.client().get_model_version("digits", number).tags
    assert tags["canary"] == "rolled back"
    done = CliRunner().invoke(app, ["serve", "up"])
    assert "was rolled back from" in done.output
    served_alone(ONE)


def test_a_good_challenger_is_promoted_once_labels_say_so(project: Path) -> None:
    number = registered(project / "made" / TWO / "digits.mar", TWO)
    answer = Predictor(project / "made" / ONE / "bundle").answer([PNG])[0]
    assert isinstance(answer, dict)
    watcher = canary(number, "--min-labels", "100")
    with asking() as clients:
        until(lambda: clients.versions()[TWO] > 400)
        with (project / "labels.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["request_id", "label"])
            rows.writerows([name, answer["label"]] for name in list(clients.answered))
        done = CliRunner().invoke(app, ["serve", "feedback", "labels.csv"])
        assert done.exit_code == 0, done.output
        output, _ = watcher.communicate()
    assert watcher.returncode == 0, output
    assert "promoted: errors" in output
    assert set(clients.versions()) == {ONE, TWO}
    assert set(list(clients.answered.values())[-20:]) == {TWO}
    served_alone(TWO)
    last = history.read()[-1]
    assert (last.action, last.before, last.after, last.ok) == ("canary", ONE, TWO, True)
    assert last.shown
    assert {each["name"]: each["verdict"] for each in last.shown["criteria"]} == {
        "errors": "fine",
        "latency": "fine",
        "quality": "fine",
    }
    assert history.defaults("digits")[-1] == TWO
    tags = mlflow_store.client().get_model_version("digits", number).tags
    assert tags["canary"] == "promoted"
    assert "served_at" in tags
    shown = CliRunner().invoke(app, ["serve", "canary", "--status"])
    assert f"{TWO} beside {ONE}" in shown.output

"""Trials of a challenger on a real TorchServe: who answers, and how they end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent

import httpx
import pytest

from pipeline.canary import Trial
from pipeline.canary_labels import add_labels
from pipeline.canary_observed import Margins
from pipeline.canary_record import STOP, End, Look, Plan, latest
from serving.archive import build_archive
from serving.client import read_token
from serving.deploy import Rollout, changing
from serving.inputs.spec import Transform, write_json
from serving.management import Management
from serving.predictor import Predictor
from serving.server import TorchServe, running
from serving.state import of_archive, read_models, write_models
from serving.worker.route import ROUTES, read_route
from tests.live import PNG, settings_of

pytestmark = pytest.mark.slow
WIDE = Margins(errors=0.1, latency=9.0, quality=0.2)  # for a few hundred requests on a busy machine
BROKEN = """

whole = Worker.own


def own(self, requests):
    if any("x-fairlead-route" in each.headers for each in requests):
        {what}
    return whole(self, requests)


Worker.own = own
"""


def packed(bundle: Path, folder: Path, version: str) -> Path:
    """The archive of a bundle that calls itself another version, as the store keeps it."""
    folder.mkdir()
    shutil.copytree(bundle, folder / "bundle")
    write_json(folder / "bundle" / "bundle.json", {"version": version})
    write_json(folder / "bundle" / "transform.json", Transform())
    expected = Predictor(bundle).answer([PNG])[0]
    assert isinstance(expected, dict)
    golden = [{"file": "0.png", "content_type": "image/png", **expected}]
    write_json(folder / "bundle" / "golden" / "golden.json", {"requests": golden})
    build_archive(folder / "bundle", folder / "digits.mar", "digits")
    return folder / "digits.mar"


def misbehaving(archive: Path, folder: Path, what: str) -> Path:
    """The same version with a handler that misbehaves once it is asked by a champion's worker."""
    folder.mkdir()
    shutil.copytree(archive.parent / "bundle", folder / "bundle")
    found = folder / archive.name
    with zipfile.ZipFile(archive) as good, zipfile.ZipFile(found, "w") as bad:
        for name in good.namelist():
            text = good.read(name)
            if name == "serving/worker/worker.py":
                text += dedent(BROKEN).format(what=what).encode()
            bad.writestr(name, text)
    return found


@pytest.fixture(scope="module")
def archives(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The champion `one`; `two` is as good; `hangs` and `fails` do so only when a champion's worker asks them."""
    root = tmp_path_factory.mktemp("archives")
    found = {version: packed(bundle, root / version, version) for version in ("one", "two", "hangs", "fails")}
    found["hangs"] = misbehaving(found["hangs"], root / "hanging", "import time; time.sleep(30)")
    found["fails"] = misbehaving(found["fails"], root / "failing", "raise RuntimeError('not today')")
    return found


@pytest.fixture(scope="module")
def server(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("state")
    write_models(folder, of_archive(archives["one"]))
    started = TorchServe(None, settings_of(response_timeout=1), folder, model_api=True)
    started.start(PNG, "image/png")
    yield folder
    started.stop()


@dataclass
class Clients:
    """What clients that never stop asking get: by request id, the version that answered."""

    answered: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def versions(self) -> Counter[str]:
        return Counter(self.answered.values())


@contextmanager
def asking(folder: Path, count: int = 4) -> Iterator[Clients]:
    """Clients that ask by the model's own address as fast as they can, each request with an id of its own."""
    endpoint, clients, over = running(folder), Clients(), threading.Event()
    assert endpoint
    headers = {"Authorization": f"Bearer {read_token(folder)}", "Content-Type": "image/png"}

    def ask(number: int) -> None:
        with httpx.Client(headers=headers, trust_env=False, timeout=30) as http:
            for at in range(10**6):
                if over.is_set():
                    return
                name = f"{number}-{at}"
                answer = http.post(
                    f"{endpoint.url}/predictions/digits", content=PNG, headers={"X-Request-Id": name}
                )
                if answer.status_code == 200 and answer.json()["request_id"] == name:
                    clients.answered[name] = answer.json()["model_version"]
                else:
                    clients.wrong.append(f"{answer.status_code} {answer.text[:200]}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def rollout(folder: Path) -> Iterator[Rollout]:
    with (
        changing(folder),
        Rollout(folder, settings_of(response_timeout=1), 1e-3, lambda _: None) as change,
    ):
        yield change


def tried(
    folder: Path, archives: dict[str, Path], version: str, plan: Plan, show: Callable[[Look, Clients], None]
) -> tuple[End, Look, Clients]:
    """A trial under load, and what the clients got from its begin to its end."""
    with rollout(folder) as change, asking(folder) as clients:
        trial = Trial(change, "digits", version, archives[version], plan)
        end, look = trial.run(lambda seen: show(seen, clients))
    assert not clients.wrong, clients.wrong[:3]
    assert not (folder / ROUTES).exists()
    with Management(folder) as management:
        assert set(management.versions("digits")) == {read_models(folder).models["digits"].default}
    found = latest(folder)
    assert found
    assert found[1]["end"] == end
    assert found[1]["look"]["reason"] == look.reason
    return end, look, clients


def nothing(_: Look, __: Clients) -> None:
    """Only look."""


QUICK = Plan(share=0.3, minutes=1, min_requests=150, margins=WIDE, look=0.5, lease=3)


@pytest.mark.parametrize("version", ["hangs", "fails"])
def test_a_challenger_is_rolled_back_and_no_client_sees_that_it(
    server: Path, archives: dict[str, Path], version: str
) -> None:
    end, look, clients = tried(server, archives, version, QUICK, nothing)
    assert end == "rolled back", look
    assert "errors" in look.reason
    assert set(clients.versions()) == {"one"}
    assert look.requests["challenger"].get("ok", 0) == 0
    assert set(look.requests["control"]) == {"ok"}
    assert look.faults.keys() & ({"timeout"} if version == "hangs" else {"status 503"})


def test_a_shadow_answers_nobody_and_ends_when_it_is_told_to(server: Path, archives: dict[str, Path]) -> None:
    def stop(look: Look, _: Clients) -> None:
        if look.agreed[1] > 50:
            found = latest(server)
            assert found
            (found[0] / STOP).touch()

    plan = replace(QUICK, mode="shadow", share=0.5, min_requests=10**6)
    end, look, clients = tried(server, archives, "two", plan, stop)
    assert end == "withdrawn"
    assert set(clients.versions()) == {"one"}
    assert look.agreed[0] == look.agreed[1] > 50
    assert look.requests["challenger"]["ok"] > 50


WATCHER = """
from pathlib import Path
from pipeline.canary import Trial
from pipeline.canary_record import Plan
from serving.deploy import Rollout, changing
from tests.live import settings_of

folder = Path("{folder}")
with changing(folder), Rollout(folder, settings_of(response_timeout=1), 1e-3, print) as change:
    Trial(change, "digits", "two", Path("{archive}"), Plan(share=0.5, min_requests=10**6, lease=3)).run(print)
"""


def test_when_the_watcher_is_killed_the_champion_answers_everybody_again(
    server: Path, archives: dict[str, Path]
) -> None:
    code = WATCHER.format(folder=server, archive=archives["two"])
    watcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    with asking(server) as clients:
        until(lambda: clients.versions()["two"] > 20)
        watcher.kill()
        watcher.wait()
        until(lambda: time.time() > read_route((server / ROUTES).read_text()).until + 0.5)
        after = len(clients.answered)
        until(lambda: len(clients.answered) > after + 200)
    assert not clients.wrong
    assert set(list(clients.answered.values())[after:]) == {"one"}
    with rollout(server) as change:
        change.repair()
        assert set(change.management.versions("digits")) == {"one"}, "what it left is taken away"


def test_a_good_challenger_is_promoted_once_labels_say_so(server: Path, archives: dict[str, Path]) -> None:
    label = Predictor(archives["one"].parent / "bundle").answer([PNG])[0]["label"]  # type: ignore[index]

    def give_labels(look: Look, clients: Clients) -> None:
        if look.requests["challenger"].get("ok", 0) > 150:
            add_labels(server, [{"id": name, "label": label} for name in list(clients.answered)])

    end, look, clients = tried(server, archives, "two", replace(QUICK, min_labels=100), give_labels)
    assert end == "promoted", look
    assert [each.name for each in look.criteria] == ["errors", "latency", "quality"]
    assert min(look.labelled.values()) >= 100
    assert set(clients.versions()) == {"one", "two"}
    assert read_models(server).models["digits"].default == "two"
    last = list(clients.answered.values())[-20:]
    assert set(last) == {"two"}


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)

"""The request log, the workers' counts and their limit of requests, without a server."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.config import write_options
from serving.edge import serve_page
from serving.metrics import clear, page
from serving.process import free_ports
from serving.settings import ServerError, ServerSettings
from serving.worker.limits import Bucket
from serving.worker.messages import PROBE, Request
from serving.worker.metrics import FOLDER as COUNTS
from serving.worker.metrics import Metrics
from serving.worker.observer import brief, reporter
from serving.worker.record import BATCHES, RequestLog, log_files, read_log
from serving.worker.worker import Worker
from tests.live import PNG, VERSION


@pytest.fixture
def worker(bundle: Path, tmp_path: Path) -> Worker:
    return Worker(bundle, state=tmp_path, name="digits")


def samples(text: bytes, name: str, label: str | None = None) -> dict[str, float]:
    """Samples of a metric by one of its labels; all together where none is given."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels[label] if label else ""] += sample.value
    return dict(found)


def test_a_batch_is_a_line_with_every_request_and_its_answer(worker: Worker, tmp_path: Path) -> None:
    replies = worker.answer([Request("good", PNG), Request("bad", b"rubbish")])
    reporter(tmp_path).flush()
    (entry,) = read_log(tmp_path)
    label = json.loads(replies[0].body)["label"]
    assert entry["requests"] == [["good", 200, label], ["bad", 400, None]]
    assert (entry["model"], entry["version"], entry["kind"]) == ("digits", VERSION, "predict")
    assert entry["ms"] > 0
    assert (tmp_path / "requests").stat().st_mode & 0o777 == 0o700


def test_lines_wait_for_a_batch_of_them(tmp_path: Path) -> None:
    log = RequestLog(tmp_path, 10**6)
    for at in range(BATCHES - 1):
        log.add("predict", "m", "1", 0.001, [(str(at), 200, "a")])
    assert not log_files(log.folder)
    log.add("predict", "m", "1", 0.001, [("last", 200, "a")])
    assert [entry["requests"][0][0] for entry in read_log(tmp_path)] == [
        *map(str, range(BATCHES - 1)),
        "last",
    ]


def test_full_files_are_renamed_and_the_oldest_deleted(tmp_path: Path) -> None:
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests/1.jsonl").write_text("left by a worker that is gone\n" * 1000)
    log = RequestLog(tmp_path, 160_000)
    for at in range(40 * BATCHES):
        log.add("predict", "m", "1", 0.001, [(f"{at:06}", 200, "a")])
    files = log_files(log.folder)
    assert 5 < len(files) <= 17
    assert sum(path.stat().st_size for path in files) <= 180_000
    assert not (log.folder / "1.jsonl").exists()
    kept = [entry["requests"][0][0] for entry in read_log(tmp_path)]
    assert kept[-1] == f"{40 * BATCHES - 1:06}"
    assert kept == sorted(kept)
    assert log.lost == 0


FULL = """
import resource, sys
from pathlib import Path
from serving.worker.record import RequestLog
state, log = Path(sys.argv[1]), RequestLog(Path(sys.argv[1]), 10**9)
def write(name, count):
    for at in range(count):
        log.add("predict", "m", "1", 0.001, [(name, 200, "a")])
    log.flush()
write("before", 50)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))  # as a disk with 6000 bytes
write("during", 90)
lost = log.lost
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
write("after", 50)
print(lost, log.lost)
"""


def test_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    during, afterwards = map(int, done.stdout.split())
    assert during == afterwards == 90, "what follows a full disk is written again"
    names = [entry["requests"][0][0] for entry in read_log(tmp_path)]
    assert names.count("before") == names.count("after") == 50, "the line that was cut spoils no other"


def test_a_folder_that_cannot_be_written_costs_no_answer(bundle: Path, tmp_path: Path) -> None:
    for name in ("requests", COUNTS):
        (tmp_path / name).write_text("a file where a folder should be")
    worker = Worker(bundle, state=tmp_path)
    assert [reply.status for reply in worker.answer([Request("1", PNG)])] == [200]
    reporter(tmp_path).flush()
    assert reporter(tmp_path).log.lost == 1  # type: ignore[union-attr]


# --- metrics


def test_the_page_holds_what_was_answered(worker: Worker, tmp_path: Path) -> None:
    worker.answer([Request(str(at), PNG) for at in range(3)] + [Request("bad", b"rubbish")])
    reporter(tmp_path).flush()
    text = page(tmp_path)
    assert samples(text, "fairlead_requests_total", "status") == {"200": 3, "400": 1}
    for label, value in (("model", "digits"), ("version", VERSION), ("kind", "predict")):
        assert samples(text, "fairlead_requests_total", label) == {value: 4}
    assert samples(text, "fairlead_predictions_total") == {"": 3}
    assert samples(text, "fairlead_request_seconds_count") == {"": 4}
    assert samples(text, "fairlead_batch_size_sum") == {"": 4}
    confidence = samples(text, "fairlead_prediction_value_bucket", "le")
    assert (confidence["0.0"], confidence["+Inf"]) == (0, 3)
    assert set(samples(text, "fairlead_prediction_value_bucket", "output")) == {"confidence"}
    assert samples(text, "fairlead_model_info", "version") == {VERSION: 1}
    assert samples(text, "fairlead_workers", "model") == {"digits": 1}


def test_workers_are_added_up_and_the_dead_stay_counted(tmp_path: Path) -> None:
    counts = Metrics()
    counts.models.add(("m", "1"))
    counts.tally("fairlead_predictions", ("m", "1"), ["a", "a", "b"])
    counts.observe("fairlead_batch_size", ("m", "1", "predict"), [1, 8, 9])
    counts.write(tmp_path)
    text = json.dumps(counts.content())
    with subprocess.Popen(["sleep", "60"]) as living, subprocess.Popen(["true"]) as dead:
        dead.wait()
        for process in (living, dead):
            (tmp_path / COUNTS / f"{process.pid}.json").write_text(text)
        for _ in range(2):  # the second time the dead one's file has become a part of the sums
            found = page(tmp_path)
            assert samples(found, "fairlead_predictions_total", "label") == {"a": 6, "b": 3}
            sizes = samples(found, "fairlead_batch_size_bucket", "le")
            assert (sizes["1.0"], sizes["8.0"], sizes["16.0"], sizes["+Inf"]) == (3, 6, 9, 9)
            assert samples(found, "fairlead_workers", "version") == {"1": 2}
            assert not (tmp_path / COUNTS / f"{dead.pid}.json").exists()
        living.kill()
    clear(tmp_path)
    assert not samples(page(tmp_path), "fairlead_predictions_total")


def test_a_torn_or_foreign_file_spoils_no_page(tmp_path: Path) -> None:
    (tmp_path / COUNTS).mkdir()
    for name, content in (("1.json", "{"), ("x.json", "[]"), ("gone.json", "null")):
        (tmp_path / COUNTS / name).write_text(content)
    assert b"fairlead_requests" in page(tmp_path)


def test_the_page_says_that_the_server_is_down_and_knows_no_other_address(tmp_path: Path) -> None:
    settings = ServerSettings(**free_ports())  # type: ignore[arg-type]
    served = serve_page(tmp_path, settings, f"http://127.0.0.1:{settings.metrics_port}/metrics")
    address = f"http://127.0.0.1:{settings.prometheus_port}"
    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
        assert samples(answer.read(), "fairlead_server_up") == {"": 0}
    for path, status in (("/other", 404), ("/ready", 503)):
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            urllib.request.urlopen(f"{address}{path}", timeout=5)
    with pytest.raises(ServerError, match=r"server\.prometheus_port"):
        serve_page(tmp_path, settings, None)
    served.shutdown()
    served.server_close()


def test_our_own_probe_is_no_drift(worker: Worker, tmp_path: Path) -> None:
    worker.answer([Request(PROBE, PNG), Request("a", PNG)])
    reporter(tmp_path).flush()
    assert samples(page(tmp_path), "fairlead_requests_total") == {"": 2}
    assert samples(page(tmp_path), "fairlead_predictions_total") == {"": 1}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"label": "a", "probabilities": {}}, "a"),
        ({"anomaly": True, "score": 2.5, "embedding": []}, 2.5),
        ({"values": {"price": 3.5}}, 3.5),
        ({"values": {"x": 1.0, "y": 2.0}}, [1.0, 2.0]),
        (None, None),
    ],
)
def test_the_log_tells_label_score_or_value(answer: dict | None, told: object) -> None:
    assert brief(answer) == told


# --- limits


def test_a_bucket_gives_its_rate_and_no_more() -> None:
    now = [0.0]
    bucket = Bucket(10, lambda: now[0])
    assert bucket.take(25) == 10
    assert bucket.take(1) == 0
    assert bucket.wait() == 1
    now[0] = 0.55
    assert bucket.take(25) == 5
    now[0] = 99.0
    assert bucket.take(25) == 10, "at most a second's worth is saved up"
    slow = Bucket(0.1, lambda: now[0])
    assert (slow.take(2), slow.wait()) == (1, 10)
    assert Bucket(0).take(10**6) == 10**6


def test_requests_over_the_limit_get_429(bundle: Path, tmp_path: Path) -> None:
    write_options(tmp_path, ServerSettings(workers=2, max_requests_per_second=4))
    worker = Worker(bundle, state=tmp_path)
    replies = worker.answer([Request(str(at), PNG) for at in range(5)])
    assert [reply.status for reply in replies] == [200, 200, 429, 429, 429], (
        "half of the limit is each worker's"
    )
    assert int(replies[-1].headers["Retry-After"]) == 1
    assert json.loads(replies[-1].body)["request_id"] == "4"
    assert "2 requests a second" in json.loads(replies[-1].body)["error"]


def test_options_that_cannot_be_read_are_told(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "worker.json").write_text('{"requests_per_second": -1}')
    with pytest.raises(ValueError, match=r"worker\.json"):
        Worker(bundle, state=tmp_path)

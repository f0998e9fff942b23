"""Stage `certify`: does the live server give the same answers, fast enough? Asks a real TorchServe."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.bodies import requests_for
from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, UserError, section
from pipeline.core.project import Name
from pipeline.core.stage import DATA, main, replacing
from pipeline.generation import requests_in
from serving.client import Client
from serving.endpoint import RequestError
from serving.inputs.ragged import Rows
from serving.inputs.spec import DataSpec, Transform, read_json, read_spec, write_json
from serving.predictor import BACKENDS, Predictor, numbers, rounding
from serving.server import ServerError, ServerSettings, free_ports
from serving.torchserve import TorchServe

BUNDLE = DATA / "export" / "bundle"
EXPORT = DATA / "export"
TEST = DATA / "prepare" / "test"
INGEST = DATA / "ingest"
EXPECTED = DATA / "evaluate" / "outputs.npy"
OUTPUT = DATA / "certify"
Answer = dict[str, Any]


class Certify(Section):
    """The `certify` section."""

    samples: int = Field(512, ge=1, le=100_000, description="Test samples sent to the server, at most.")
    tolerance: float = Field(
        1e-4,
        gt=0,
        le=0.1,
        description="Largest difference of a probability from evaluate's, or of a value in standard deviations.",
    )
    connections: int = Field(8, ge=1, le=256, description="Connections at once in the busy part.")
    lone_requests: int = Field(
        100, ge=10, le=10_000, description="Requests sent one after the other, to measure latency."
    )
    max_p99_ms: float = Field(
        1000,
        gt=0,
        description="Largest allowed 99th percentile of the lone client's latency, in milliseconds.",
    )


def comparer(tolerance: float) -> Callable[[str, np.ndarray, np.ndarray, int], dict[str, Any]]:
    """What compares expected with found outputs (N, K) of a backend, by its name.

    Gives the largest difference, of a probability, of a value in its target's deviations, or of a grey level as a share
    of all, and of a classifier how many samples got another label. Pixels that were rounded, once or on both sides,
    count from the nearest that round to the same.
    """
    transform = Transform.model_validate_json((BUNDLE / "transform.json").read_text())
    spec = read_spec(BUNDLE)
    unit = np.array(transform.target_std or [255.0 if spec.task == "generation" else 1.0], np.float32)
    classifies = spec.task == "classification"

    def compare(name: str, expected: np.ndarray, found: np.ndarray, rounded: int) -> dict[str, Any]:
        apart = (np.abs(expected - found) - rounded * rounding(spec)).clip(min=0)
        difference = (apart / unit).max(axis=1)
        changed = (expected.argmax(1) != found.argmax(1)) & (difference > tolerance)
        return {
            "backend": name,
            "samples": len(expected),
            "max_difference": float(difference.max()),
            "labels_changed": int(changed.sum()) if classifies else None,
            "same": bool(difference.max() <= tolerance),
        }

    return compare


def ask(
    client: Client, bodies: list[tuple[bytes, str]], spec: DataSpec
) -> tuple[np.ndarray, np.ndarray, list[Answer]]:
    """Send bodies one after the other: outputs (N, K), seconds of each (N,), and the answers."""
    answers, seconds = [], []
    for body, content_type in bodies:
        began = time.perf_counter()
        answers.append(client.predict(body, content_type))
        seconds.append(time.perf_counter() - began)
    rows = [numbers(spec, answer) for answer in answers]
    return np.array(rows, np.float32), np.array(seconds), answers


def check_answers(answers: list[Answer], version: str) -> None:
    """Every answer names this model's version, its own request, and the likeliest label."""
    versions = {answer["model_version"] for answer in answers}
    if versions != {version}:
        raise UserError(f"the server answers as version {sorted(versions)}; expected {version}")
    if len({answer["request_id"] for answer in answers}) != len(answers):
        raise UserError("the server gave the same request id twice")
    for answer in answers:
        shares = answer.get("probabilities")
        if shares and answer["label"] != max(shares, key=shares.get):
            raise UserError(f"the server's label is not its likeliest class: {answer}")


def interrogate(
    client: Client, settings: Certify, bodies: list[tuple[bytes, str]], expected: np.ndarray
) -> dict[str, Any]:
    """Ask the live server for golden and test samples, lone and busy; compare, and measure latency."""
    spec, compare = read_spec(BUNDLE), comparer(settings.tolerance)
    golden = read_json(BUNDLE / "golden" / "golden.json")["requests"]
    raw = [((BUNDLE / "golden" / g["file"]).read_bytes(), g["content_type"]) for g in golden]
    found, _, answers = ask(client, raw, spec)
    wanted = np.array([numbers(spec, g) for g in golden], np.float32)
    reports = [compare("torchserve, golden requests", wanted, found, 2)]
    lone = bodies[: settings.lone_requests]
    rows, seconds, some = ask(client, lone, spec)
    busy_rows, busy_seconds, more, wall = _busy(client, bodies, spec, settings.connections)
    check_answers(answers + some + more, read_json(BUNDLE / "bundle.json")["version"])
    name = f"torchserve, {settings.connections} connections"
    reports += [
        compare("torchserve, one connection", expected[: len(rows)], rows, 1),
        compare(name, expected, busy_rows, 1),
    ]
    return {
        "comparisons": reports,
        "latency_ms": {"lone": percentiles(seconds), "busy": percentiles(busy_seconds)},
        "requests_per_second": len(bodies) / wall,
        "connections": settings.connections,
    }


def _busy(
    client: Client, bodies: list[tuple[bytes, str]], spec: DataSpec, connections: int
) -> tuple[np.ndarray, np.ndarray, list[Answer], float]:
    """The same over several connections at once, so that the server really batches."""
    shares = [bodies[at::connections] for at in range(connections) if bodies[at::connections]]
    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        parts = list(pool.map(lambda share: ask(client, share, spec), shares))
    wall = time.perf_counter() - began
    rows = np.empty((len(bodies), parts[0][0].shape[1]), np.float32)
    for at, part in enumerate(parts):
        rows[at::connections] = part[0]
    answers = [answer for part in parts for answer in part[2]]
    return rows, np.concatenate([part[1] for part in parts]), answers, wall


def percentiles(seconds: np.ndarray) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"p50": 1000 * float(p50), "p99": 1000 * float(p99), "max": 1000 * float(seconds.max())}


def offline(rows: Rows, expected: np.ndarray, tolerance: float) -> list[dict[str, Any]]:
    """Compare the bundle's own backends with `evaluate`, and one sample at a time with a whole batch."""
    reports, compare = [], comparer(tolerance)
    for backend in BACKENDS:
        predictor = Predictor(BUNDLE, backend)
        reports.append(compare(backend, expected, predictor.outputs(rows), 0))
        few = predictor.outputs(rows[:8], chunk=1)
        reports.append(compare(f"{backend}, batch of one", expected[:8], few, 0))
    return reports


def asked(test: Dataset, count: int) -> Rows:
    """What the model is asked for the first test samples: their inputs, or requests for images of their classes."""
    if test.spec.task != "generation":
        rows: Rows = test.inputs[:count]
        return rows
    return np.concatenate(list(requests_in(test, BUNDLE)))[:count]


def verdict(report: dict[str, Any], settings: Certify) -> list[str]:
    """Why the model cannot be certified; empty where it can."""
    reasons = [
        f"{entry['backend']}: outputs differ by up to {entry['max_difference']:.2g} from evaluate's "
        f"(certify.tolerance is {settings.tolerance:g})"
        + (
            ""
            if entry["labels_changed"] is None
            else f"; {entry['labels_changed']} of {entry['samples']} labels changed"
        )
        for entry in report["comparisons"]
        if not entry["same"]
    ]
    p99 = report["latency_ms"]["lone"]["p99"]
    if p99 > settings.max_p99_ms:
        reasons.append(f"p99 latency is {p99:.0f} ms; certify.max_p99_ms allows {settings.max_p99_ms:g}")
    return reasons


def serve_and_ask(
    archive: Path, settings: Certify, work: Callable[[Client], dict[str, Any]]
) -> dict[str, Any]:
    """Run `work` on a TorchServe of our own on free ports, which ends whatever happens."""
    server = section("server", ServerSettings).model_copy(update=free_ports())
    golden = read_json(BUNDLE / "golden" / "golden.json")["requests"][0]
    began = time.perf_counter()
    try:
        with TorchServe(archive, server) as running:
            running.start((BUNDLE / "golden" / golden["file"]).read_bytes(), golden["content_type"])
            seconds = time.perf_counter() - began
            with running.client() as client:
                return {"seconds_to_first_answer": seconds, **work(client)}
    except (ServerError, RequestError) as error:
        raise UserError(str(error)) from None


def run() -> None:
    """Run the stage."""
    settings = section("certify", Certify)
    archive = EXPORT / f"{section('name', Name)}.mar"
    test = Dataset(TEST)
    rows = asked(test, settings.samples)
    bodies = list(requests_for(test, INGEST, settings.samples))
    expected = np.load(EXPECTED, allow_pickle=False)[: settings.samples]
    with ThreadPoolExecutor(
        1
    ) as pool:  # loads torch while Java starts, and is done before latency is measured
        own = pool.submit(offline, rows, expected, settings.tolerance)

        def work(client: Client) -> dict[str, Any]:
            compared = own.result()
            live = interrogate(client, settings, bodies, expected)
            return {**live, "comparisons": live["comparisons"] + compared}

        report = serve_and_ask(archive, settings, work)
    reasons = verdict(report, settings)
    if reasons:
        raise UserError("the live model is not the evaluated one:\n  " + "\n  ".join(reasons))
    with replacing(OUTPUT) as folder:
        write_json(
            folder / "report.json", {"version": read_json(BUNDLE / "bundle.json")["version"], **report}
        )
    worst = max(entry["max_difference"] for entry in report["comparisons"])
    lone = report["latency_ms"]["lone"]
    print(
        f"certify: {len(rows)} live answers equal evaluate's within {worst:.1e}; p50 {lone['p50']:.1f} ms, "
        f"p99 {lone['p99']:.1f} ms; {report['requests_per_second']:.0f} requests/s"
    )


if __name__ == "__main__":
    main(run, "certify")

"""Where a version or an answer comes from: registry, run, commit, data, parameters, metrics, and what it served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from pipeline import mlflow_store, origin
from pipeline.core.params import UserError, flatten, section
from pipeline.core.project import Name
from pipeline.core.stage import STATE
from pipeline.registry import archive_place
from pipeline.versions import find, run_of
from serving.inputs.spec import read_json

HISTORY = STATE / "history.jsonl"
REQUESTS = STATE / "server" / "requests"


def json_lines(path: Path, holding: str = "") -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; a line that a kill cut short is passed over."""
    wanted = holding.encode()
    try:
        with path.open("rb") as file:
            for line in file:
                if wanted in line:
                    try:
                        found = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(found, dict):
                        yield found
    except FileNotFoundError:  # rotated and removed meanwhile
        return


def asked(request_id: str, folder: Path = REQUESTS) -> list[dict[str, Any]]:
    """What the request log holds of an id, the earliest first; a retried request is there more than once."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in json_lines(path, json.dumps(request_id)):
            for each in line.get("requests", []):
                if each and each[0] == request_id:
                    found.append({
                        "request_id": request_id, "at": _moment(line.get("at")), "model": line.get("model"),
                        "model_version": line.get("version"), "kind": line.get("kind", "predict"),
                        "status": each[1], "answer": each[2], "batch_ms": line.get("ms"),
                    })  # fmt: skip
    return sorted(found, key=lambda each: each["at"])


def _moment(seconds: Any) -> str:
    return datetime.fromtimestamp(float(seconds or 0), UTC).isoformat(timespec="milliseconds")


def trace(word: str) -> dict[str, Any]:
    """All that is known of a version, or of a request and the version that answered it.

    Raises:
        UserError: the word is neither.
    """
    name = section("name", Name)
    try:
        return version_facts(name, word)
    except UserError as unknown:
        requests = asked(word)
        if not requests:
            there = "" if REQUESTS.is_dir() else f"; there is no request log in {REQUESTS}"
            raise UserError(f"{unknown}; and no request of this id is in the log{there}") from None
    last = requests[-1]
    facts: dict[str, Any] = {"requests": requests}
    try:
        return {**facts, **version_facts(str(last["model"]), str(last["model_version"]))}
    except UserError as error:
        return {**facts, "missing": str(error)}


def version_facts(name: str, word: str) -> dict[str, Any]:
    """What the registry, the run and its files say of a version.

    Raises:
        UserError: there is none.
    """
    versions = find(name, word)
    latest = versions[0]
    run = run_of(latest)
    tags, digest = run.data.tags, latest.tags.get("model_version", "")
    with TemporaryDirectory() as scratch:
        files = {place: _fetched(latest.run_id, place, Path(scratch)) for place in (
            "promote/receipt.json", "params.yaml", "evaluate/metrics.json")}  # fmt: skip
        receipt, metrics = (
            read_json(path) if path else {}
            for path in (files["promote/receipt.json"], files["evaluate/metrics.json"])
        )
        given = files["params.yaml"]
        parameters = yaml.safe_load(given.read_text()) if given else {}
    archive = latest.tags.get("archive_sha256", "")
    return {
        "model": name,
        "model_version": digest,
        "registry": [
            {"version": str(each.version), "verdict": each.tags.get("verdict"), "reason": each.tags.get("reason"),
             "aliases": list(each.aliases), "registered": _moment(each.creation_timestamp / 1000)}
            for each in versions
        ],
        "run": {"id": latest.run_id, "address": address(run.info.experiment_id, latest.run_id),
                "status": run.info.status, "started": _moment(run.info.start_time / 1000)},
        "code": {"commit": tags.get("mlflow.source.git.commit"), "modified": tags.get("git.modified") == "true",
                 "patch": tags.get("git.patch.sha256")},
        "dvc_lock_sha256": {"at training": tags.get("dvc.lock.sha256"),
                            "at promotion": receipt.get("lineage", {}).get("dvc.lock.sha256")},
        "data": {"digest": receipt.get("data"), "source": parameters.get("data", {}).get("source"),
                 "path": parameters.get("data", {}).get("path"), "parts": _data(run)},
        "machine": tags.get("machine"),
        "parameters": parameters,
        "tuned": {key.removeprefix("tuned."): value for key, value in tags.items() if key.startswith("tuned.")},
        "metrics": {key: value for key, value in metrics.items() if isinstance(value, dict) and "value" in value},
        "certified": receipt.get("certified"),
        "archive": {"sha256": archive, "place": f"runs:/{latest.run_id}/{archive_place(archive)}/{name}.mar"},
        "history": served(name, digest),
    }  # fmt: skip


def _fetched(run_id: str, place: str, folder: Path) -> Path | None:
    try:
        return mlflow_store.download(f"runs:/{run_id}/{place}", folder)
    except UserError:
        return None


def _data(run: Any) -> list[dict[str, str]]:
    """The data sets that the run was given."""
    return [
        {"part": next((tag.value for tag in entry.tags if tag.key == "mlflow.data.context"), ""),
         "folder": json.loads(entry.dataset.source) if entry.dataset.source[:1] == '"' else entry.dataset.source,
         "digest": entry.dataset.digest}
        for entry in run.inputs.dataset_inputs
    ]  # fmt: skip


def address(experiment: str, run_id: str) -> str:
    """Where the run is looked at."""
    store = mlflow_store.uri()
    at = store.rstrip("/") if store.startswith("http") else "http://127.0.0.1:5000"
    return f"{at}/#/experiments/{experiment}/runs/{run_id}?{mlflow_store.VIEW}"


def served(name: str, digest: str) -> list[dict[str, Any]]:
    """The changes of what is served that this version had a part in."""
    return [
        each
        for each in json_lines(HISTORY, digest)
        if each.get("model") == name and digest in (each.get("from"), each.get("to"))
    ]


def told(facts: dict[str, Any]) -> list[str]:
    """The facts as lines of text."""
    lines: list[str] = []

    def line(key: str, value: Any) -> None:
        lines.append(f"{key:14} {value if value not in (None, '', [], {}) else 'not recorded'}")

    for each in facts.get("requests", []):
        line("request", f"{each['request_id']}, a {each['kind']} of {each['at']}, status {each['status']}")
        line("answer", f"{each['answer']} by {each['model']} version {each['model_version']}")
    if "missing" in facts:
        line("version", facts["missing"])
        return lines
    line("model", f"{facts['model']}, version {facts['model_version']}")
    for each in facts["registry"]:
        also = f" ({', '.join(each['aliases'])})" if each["aliases"] else ""
        line(
            "registry",
            f"version {each['version']}{also}, {each['registered']}: {each['verdict']}: {each['reason']}",
        )
    run, code, data = facts["run"], facts["code"], facts["data"]
    line("MLflow run", f"{run['id']}, {run['status'].lower()}, begun {run['started']}")
    hint = "" if mlflow_store.uri().startswith("http") else "  ('make ui' first)"
    line("", f"{run['address']}{hint}")
    how = f"modified: {origin.PATCH} of the run" if code["modified"] else "as committed"
    line("git commit", f"{code['commit']}, {how}")
    line(
        "dvc.lock", "; ".join(f"{value} {when}" for when, value in facts["dvc_lock_sha256"].items() if value)
    )
    line("data", f"{data['source']} from {data['path']}, digest {data['digest']}")
    for part in data["parts"]:
        line("", f"{part['part']}: {part['folder']}, digest {part['digest']}")
    line("machine", facts["machine"])
    for key, value in facts["metrics"].items():
        line("metric", f"{key} {value['value']:.4g} ({value['low']:.4g} to {value['high']:.4g})")
    for key, value in facts["tuned"].items():
        line("tuned", f"{key} {value}")
    if certified := facts["certified"]:
        ways = certified["comparisons"]
        same = "equal" if all(each["same"] for each in ways) else "NOT equal"
        worst = max(each["max_difference"] for each in ways)
        line(
            "certified",
            f"{same} in {len(ways)} comparisons with the live server, largest difference {worst:.2g}",
        )
    line("archive", f"{facts['archive']['place']}, SHA-256 {facts['archive']['sha256']}")
    for each in facts["history"]:
        how = each.get("reason") or ("done" if each.get("ok", True) else "failed")
        change = f"{each.get('action')} from {each.get('from')} to {each.get('to')}"
        line("served", f"{each.get('at')}, {change}, by {each.get('who')}: {how}")
    if not facts["history"]:
        line("served", "never, by the history here")
    for key, values in facts["parameters"].items():
        plain = flatten(values) if isinstance(values, dict) else {"": values}
        line(
            "parameters", f"{key}: " + ", ".join(f"{name} {value!r}".strip() for name, value in plain.items())
        )
    return lines

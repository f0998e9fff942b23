"""What a run of the second server is made of, as its processes tell each other in files of its scratch folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from serving.settings import ServerSettings

RUN = "run.json"
WANTED, TABLE = "wanted.json", "table.json"  # archives that are to run; their unpacked bundles
WORKERS = "workers.json"  # by process id what each worker holds
BEAT = 0.2  # seconds between two signs of life of a worker
Table = dict[str, dict[str, Any]]  # a model's name: {"default": version, "versions": ...}


class Run(BaseModel, extra="forbid", frozen=True):
    """One run, written before its master process starts."""

    folder: Path = Field(description="The state folder: tokens, logs.")
    key_file: Path = Field(description="The tokens.")
    host: str = Field(description="Address to listen on: loopback but in a container.")
    settings: ServerSettings


def read_run(scratch: Path) -> Run:
    """The run whose scratch folder this is."""
    return Run.model_validate_json((scratch / RUN).read_text())


def write_whole(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees all of it or what was there before."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(content))
    fresh.replace(path)


def read_table(path: Path) -> Table:
    """A table of models; empty where there is none yet."""
    try:
        table: Table = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return table

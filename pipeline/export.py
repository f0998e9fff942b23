"""Stage `export`: what do we ship? The server-neutral bundle, its TorchServe archive and the MLflow model."""

from __future__ import annotations

import hashlib
import logging
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from models.served import Served, load
from pipeline import tracking
from pipeline.card import model_card
from pipeline.core.dataset import Dataset
from pipeline.core.params import Section, section
from pipeline.core.project import Name
from pipeline.core.stage import DATA, main, replacing
from pipeline.golden import write_golden
from pipeline.registry import archive_place
from pipeline.sources import Data
from serving.archive import build_archive
from serving.inputs.decode import decoder
from serving.inputs.generation import latent_of, request_column
from serving.inputs.spec import Column, read_json, write_json
from serving.inputs.text import TOKENIZER
from serving.openapi import document

MODEL = DATA / "train"
INGEST = DATA / "ingest"
TEST = DATA / "prepare" / "test"
EVALUATE = DATA / "evaluate"
OUTPUT = DATA / "export"
DECIDES = ("weights.safetensors", "model.json", "spec.json", "transform.json")  # what an answer depends on
STEPS, MOST_STEPS = 7, 100_000  # of the sample that is traced, and of what the graph takes


class Export(Section):
    """The `export` section."""

    golden: int = Field(
        16,
        ge=1,
        le=1000,
        description="Golden requests in the bundle: raw inputs with their expected answers.",
    )


def decisive(folder: Path) -> list[str]:
    """The files of a trained model that decide its answers; only texts have a tokenizer."""
    return [*DECIDES, TOKENIZER] if (folder / TOKENIZER).exists() else list(DECIDES)


def version_of(folder: Path) -> str:
    """Twelve hexadecimal digits that name the model by its content."""
    digest = hashlib.sha256()
    for name in decisive(folder):
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()[:12]


def export_graphs(served: Served, column: Column, folder: Path) -> None:
    """Write `model.pt2` and `model.onnx`, both taking (N, *shape), or (N, T, *shape) for ragged rows, any N and T."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    steps = (STEPS,) if column.ragged else ()
    kind = torch.from_numpy(np.zeros(1, column.dtype)).dtype
    sample = (torch.ones(2, *steps, *column.shape, dtype=kind),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = {0: torch.export.Dim("batch", min=1)}
        if column.ragged:
            free[1] = torch.export.Dim("steps", min=1, max=MOST_STEPS)
        program = torch.export.export(served, sample, dynamic_shapes=(free,))
        program._example_inputs = None  # they would be pickled into the archive, and nothing reads them
        torch.export.save(program, folder / "model.pt2")
        graph = torch.onnx.export(
            program, sample, dynamo=True, verbose=False, input_names=["input"], output_names=["outputs"]
        )
    assert graph is not None
    graph.save(folder / "model.onnx", external_data=False)


def write_bundle(folder: Path, project: str, settings: Export, data: Data) -> str:
    """Write the whole bundle and return its version."""
    folder.mkdir()
    for name in decisive(MODEL):
        shutil.copy(MODEL / name, folder / name)
    run, version = read_json(MODEL / "run.json"), version_of(folder)
    metrics = read_json(EVALUATE / "metrics.json")
    spec = Dataset(TEST).spec
    takes = request_column(latent_of(folder)) if spec.task == "generation" else spec.input
    export_graphs(load(MODEL), takes, folder)
    outputs = np.load(EVALUATE / "outputs.npy", allow_pickle=False)
    decode = decoder(spec, folder)
    write_golden(folder / "golden", Dataset(TEST), outputs, decode, INGEST, data, settings.golden)
    write_json(
        folder / "bundle.json",
        {
            "name": project,
            "version": version,
            "run_id": run["run_id"],
            "data": run["data"],
            **tracking.lineage(),
        },
    )
    write_json(folder / "openapi.json", document({project: {version: spec}}))
    (folder / "README.md").write_text(model_card(project, version, folder, metrics, run))
    return version


def run() -> None:
    """Run the stage."""
    project = section("name", Name)
    settings = section("export", Export)
    data = section("data", Data)
    mlrun = tracking.attach(read_json(MODEL / "run.json")["run_id"])
    with replacing(OUTPUT) as folder:
        version = write_bundle(folder / "bundle", project, settings, data)
        build_archive(folder / "bundle", folder / f"{project}.mar", project)
        model = tracking.log_model(mlrun, folder / "bundle")
        write_json(folder / "model.json", {"version": version, "mlflow_model": model})
        digest = hashlib.sha256((folder / f"{project}.mar").read_bytes()).hexdigest()
        mlrun.files(folder / f"{project}.mar", archive_place(digest))
        mlrun.tags({"model_version": version})
    size = (OUTPUT / f"{project}.mar").stat().st_size / 1024
    print(f"export: bundle {OUTPUT / 'bundle'} and archive {project}.mar ({size:.0f} KiB), version {version}")


if __name__ == "__main__":
    main(run, "export")

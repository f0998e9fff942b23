"""Stage `train`: the model. Goes on from its last checkpoint after a kill and ends with the same weights."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from models.params import Model
from models.served import save
from pipeline import tracking
from pipeline.compute import Compute
from pipeline.fit import Job, Train, fit
from pipeline.job import make_job
from pipeline.lineage import data_digest
from pipeline.params import PARAMS, flatten, parse, section
from pipeline.plots import learning_curves
from pipeline.project import Name, Seed
from pipeline.space import override
from pipeline.stage import DATA, STATE, main, replacing
from pipeline.study import digest
from serving.spec import read_json, write_json

BEST = DATA / "tune" / "best.yaml"
OUTPUT = DATA / "train"


def tuned(model: Model, train: Train) -> tuple[Model, Train, dict[str, Any]]:
    """Lay the values that `tune` found over the given ones."""
    values = yaml.safe_load(BEST.read_text())["params"] or {}
    return override(model, "model", values), override(train, "train", values), values


def open_run(job: Job, project: str, values: dict[str, Any], state: Path) -> tracking.Run:
    """The MLflow run of this training: a new one, or that of the training which was interrupted."""
    note = state / "run.json"
    if note.exists():
        run = tracking.Run(read_json(note)["run_id"])
        if run.exists():
            return run
    run = tracking.start(project, f"train-{state.name}", {"stage": "train"})
    own = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    rest = {key: value for key, value in parse(PARAMS.read_text()).items() if key not in own}
    run.params(flatten({**rest, **own}))
    run.tags({f"tuned.{name}": str(value) for name, value in values.items()})
    for context, folder in (("training", job.train_folder), ("validation", job.val_folder)):
        run.data(job.spec.source, data_digest(folder), folder.as_posix(), context)
    run.files(PARAMS)
    write_json(note, {"run_id": run.id})
    return run


class EpochLog:
    """Writes one row an epoch to a CSV file that survives a kill, and the same to MLflow."""

    def __init__(self, path: Path, run: tracking.Run, total: int) -> None:
        self.path, self.run = path, run
        self.rows: list[dict[str, float]] = []
        self.bar = tqdm(total=total, desc="train", unit=" epochs")

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        """Record an epoch; rows that a resumed run repeats take the place of the old ones."""
        if not self.rows:
            self.rows = [row for row in read_log(self.path) if row["epoch"] < epoch]
            self.bar.update(len(self.rows))
        self.rows.append({"epoch": epoch, **metrics})
        with self.path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(self.rows)
        self.run.metrics(metrics, epoch)
        self.bar.update()
        self.bar.set_postfix_str(
            f"val_loss {metrics['val_loss']:.4f}, val_accuracy {metrics['val_accuracy']:.4f}"
        )


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of an epoch log; none where it does not exist."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def run() -> None:
    """Run the stage."""
    project = section("name", Name)
    model, train, values = tuned(section("model", Model), section("train", Train))
    job = make_job(model, train, section("seed", Seed), section("compute", Compute))
    data = data_digest(job.train_folder, job.val_folder)
    key = digest(model.model_dump(), train.model_dump(), job.seed, data)
    state = STATE / "checkpoints" / key
    state.mkdir(parents=True, exist_ok=True)
    mlrun = open_run(job, project, values, state)
    log = EpochLog(state / "log.csv", mlrun, train.max_epochs)
    with tracking.recording(mlrun), log.bar:
        served = fit(job, [log], state)
    rows = read_log(state / "log.csv")
    best = min(rows, key=lambda row: row["val_loss"])
    with replacing(OUTPUT) as folder:
        save(served, model, job.spec, job.transform, folder)
        shutil.copy(state / "log.csv", folder / "log.csv")
        learning_curves(rows, folder / "curves.png")
        write_json(folder / "run.json", {"run_id": mlrun.id, "data": data, "tuned": values})
        mlrun.files(folder / "curves.png", "plots")
        mlrun.files(folder / "log.csv", "train")
    mlrun.metrics({f"best_{name}": best[name] for name in ("val_loss", "val_accuracy")})
    mlrun.finish()
    shutil.rmtree(state)
    print(
        f"train: {len(rows)} epochs in {sum(row['seconds'] for row in rows):.0f} s; best val_loss "
        f"{best['val_loss']:.4f}, accuracy {best['val_accuracy']:.4f} at epoch {best['epoch']:.0f}; run {mlrun.id}"
    )


if __name__ == "__main__":
    main(run, "train")

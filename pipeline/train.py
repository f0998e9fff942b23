"""Stage `train`: the model. Goes on from its last checkpoint after a kill and ends with the same weights."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from models.params import Model
from models.served import save
from pipeline import origin, tracking
from pipeline.core.params import PARAMS, UserError, flatten, parse, section
from pipeline.core.project import Seed
from pipeline.core.stage import DATA, STATE, main, replacing
from pipeline.fitting.compute import Compute
from pipeline.fitting.diagnoses import diagnose, report
from pipeline.fitting.doctor import Doctor
from pipeline.fitting.energy import Meter, country_of, spent, told
from pipeline.fitting.epochlog import EpochLog, read_log
from pipeline.fitting.finding import completed
from pipeline.fitting.fit import Job, Train
from pipeline.fitting.job import TRANSFORM, make_job
from pipeline.fitting.lineage import data_digest, digest
from pipeline.fitting.privacy import promised
from pipeline.fitting.processes import fit_together, follow, follows
from pipeline.fitting.recorder import recorded
from pipeline.fitting.space import override
from pipeline.fitting.trainer import device_of
from serving.inputs.spec import read_json, write_json
from serving.inputs.text import TOKENIZER

BEST = DATA / "tune" / "best.yaml"
OUTPUT = DATA / "train"


def tuned(model: Model, train: Train) -> tuple[Model, Train, dict[str, Any]]:
    """Lay the values that `tune` found over the given ones."""
    try:
        values = yaml.safe_load(BEST.read_text())["params"] or {}
    except (yaml.YAMLError, KeyError, TypeError):
        raise UserError(
            f"{BEST} is damaged; 'dvc repro -f -s tune' writes it again from the stored study"
        ) from None
    return override(model, "model", values), override(train, "train", values), values


def open_run(job: Job, values: dict[str, Any], state: Path) -> tracking.Run:
    """The MLflow run of this training: a new one, or that of the training which was interrupted."""
    note = state / "run.json"
    if note.exists():
        run = tracking.Run(read_json(note)["run_id"])
        if run.exists():
            return run
    run = tracking.start(f"train-{state.name}", {"stage": "train"})
    own = {"model": job.model.model_dump(), "train": job.train.model_dump()}
    rest = {key: value for key, value in parse(PARAMS.read_text()).items() if key not in own}
    run.params(flatten({**rest, **own}))
    run.tags({f"tuned.{name}": str(value) for name, value in values.items()})
    for context, folder in (("training", job.train_folder), ("validation", job.val_folder)):
        run.data(job.spec.source, data_digest(folder), folder.as_posix(), context)
    run.files(PARAMS)
    run.tags({"machine": origin.machine(), **origin.digests(params=PARAMS, best=BEST)})
    with origin.kept(BEST) as folder:
        run.files(folder, "origin")
    if (picture := job.train_folder / "samples.png").exists():
        run.files(picture, "plots")
    write_json(note, {"run_id": run.id})
    return run


def run() -> None:
    """Run the stage."""
    if follows():
        follow()
        return
    model, train, values = tuned(section("model", Model), section("train", Train))
    found, country = yaml.safe_load(BEST.read_text()), country_of()
    searched = {name: found.get(name, {}) for name in ("families", "finals", "nested")}
    job = make_job(model, train, section("seed", Seed), section("compute", Compute))
    data = data_digest(job.train_folder, job.val_folder)
    key = digest(job.model.model_dump(), train.model_dump(), job.seed, data)
    state = STATE / "checkpoints" / key
    state.mkdir(parents=True, exist_ok=True)
    job = completed(job, state)
    with recorded(lambda: open_run(job, values, state)) as recorder:

        def record(metrics: dict[str, float], epoch: int) -> None:
            recorder.later(lambda run: run.metrics(metrics, epoch))

        log = EpochLog(state / "log.csv", record, train.max_epochs)
        doctor = Doctor([lambda epoch, metrics: record(metrics, epoch)])
        looked_at = train.doctor and not train.privacy.epsilon  # of gradients without noise nothing is kept
        began = time.perf_counter()
        with log.bar:
            served = fit_together(job, [log], state, [doctor] if looked_at else [])
        seconds = time.perf_counter() - began
    mlrun = recorder.run
    rows = read_log(state / "log.csv")
    best = min(rows, key=lambda row: row["val_loss"])
    energy = spent(sum(row.get("joules", 0.0) for row in rows), country)
    privacy = promised(train.privacy, rows)
    with replacing(OUTPUT) as folder:
        save(served, job.model, job.spec, job.transform, folder)
        if (tokenizer := TRANSFORM / TOKENIZER).exists():
            shutil.copy(tokenizer, folder)
        shutil.copy(state / "log.csv", folder / "log.csv")
        write_json(
            folder / "run.json",
            {"run_id": mlrun.id, "data": data, "tuned": values, **searched, "seconds": seconds,
             "energy": {**energy, "how": Meter(device_of(job.compute)).how}, "privacy": privacy},
        )  # fmt: skip
        write_json(folder / "doctor.json", report(doctor.facts))
        mlrun.files(folder / "log.csv", "train")
        mlrun.files(folder / "doctor.json", "train")
    mlrun.metrics({f"best_{name}": best[name] for name in ("val_loss", "val_score")} | energy | privacy)
    mlrun.finish()
    shutil.rmtree(state)
    for diagnosis in diagnose(doctor.facts):
        print(f"train: {diagnosis}")
    if privacy:
        print(
            f"train: privacy: epsilon {privacy['epsilon']:.3f} of {train.privacy.epsilon:g} spent "
            f"at delta {train.privacy.delta:g}"
        )
    print(
        f"train: {len(rows)} epochs, fitted in {seconds:.0f} s with {told(energy)}; best val_loss "
        f"{best['val_loss']:.4f}, score {best['val_score']:.4f} at epoch {best['epoch']:.0f}; run {mlrun.id}"
    )


if __name__ == "__main__":
    main(run, "train")

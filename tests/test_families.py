"""Several families in one study: what fits, what each reads, and who won."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from models.params import Model
from pipeline import tracking
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.fitting.families import chosen, first_trials, prepared, settled, told
from pipeline.fitting.fit import Job, Train
from pipeline.fitting.space import Domain, Space
from serving.inputs.spec import read_json
from tests.conftest import run_stage, set_params
from tests.stores import forget
from tests.test_job import job_of

SPACE: Space = {
    "model.family": Domain(choices=("cnn", "transformer")),
    "model.width": Domain(choices=(6, 10)),
    "model.heads": Domain(choices=(2, 4)),
    "model.kernel": Domain(choices=(3, 5)),
}
SMALL = Model(family="auto", width=6, depth=1, heads=4, kernel=3)


@pytest.fixture
def series(project: Path) -> Job:
    """A job on small series in the project."""
    job = job_of(SMALL.model_copy(update={"family": "cnn"}), "series", Train())
    for folder in (job.train_folder, job.val_folder):  # what the data's digest is made of
        np.save(folder / "id.npy", np.arange(len(Dataset(folder))).astype("S64"))
    return job


def test_a_family_that_does_not_fit_is_refused_before_the_first_trial(series: Job) -> None:
    for name in ("fnn", "autoencoder", "auto"):
        with pytest.raises(UserError, match=rf"tune.space: 'model.family': {name} cannot be tuned for class"):
            prepared(series, {"model.family": Domain(choices=("cnn", name))})
    odd = replace(series, model=SMALL.model_copy(update={"family": "cnn", "kernel": 4}))
    with pytest.raises(UserError, match="kernel"):
        prepared(odd, {"model.family": Domain(choices=("cnn", "gru"))})
    assert prepared(odd, {"model.family": Domain(choices=("gru", "lstm"))}).model.family == "gru"


def test_what_a_family_does_not_read_stays_as_given_and_heads_divide_the_width() -> None:
    values = {
        "model.family": "transformer",
        "model.width": 10,
        "model.heads": 4,
        "model.kernel": 5,
        "train.lr": 0.1,
    }
    found = settled(SMALL, values, SPACE)
    assert (found.width, found.heads, found.kernel) == (8, 4, 3)
    assert chosen(SMALL, values, SPACE) == {**values, "model.width": 8, "model.kernel": 3}
    other = settled(SMALL, {**values, "model.family": "cnn"}, SPACE)
    assert (other.width, other.heads, other.kernel) == (10, 4, 5)
    plain = settled(
        SMALL.model_copy(update={"family": "transformer"}),
        {"train.lr": 0.1},
        {"train.lr": SPACE["model.width"]},
    )
    assert plain.width == 6, "a width that is not tuned is no one's to change"


def test_each_family_begins_with_the_given_values() -> None:
    given = {"model.family": "transformer", "model.width": 6}
    assert [values["model.family"] for values in first_trials(given, SPACE)] == ["transformer", "cnn"]
    assert first_trials({"train.lr": 1}, {}) == [{"train.lr": 1}]
    assert told(
        {"a": {"best": 0.5, "trials": 2, "finished": 1}, "b": {"best": None, "trials": 1, "finished": 0}}
    ) == ("a best 0.5000 (2 trials), b none finished (1 trials)")


@pytest.mark.slow
@pytest.mark.usefixtures("series")
def test_a_study_of_auto_compares_the_families_and_says_how_each_did(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["model"] = SMALL.model_dump()
    content["tune"] = {
        "trials": 4,
        "minutes": 5.0,
        "max_epochs": 1,
        "top": 2,
        "seeds": 2,
        "space": {name: {"choices": list(domain.choices)} for name, domain in SPACE.items()},
    }
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    set_params(project, {"compute.threads": 1, "train.batch_size": 16})
    done = run_stage("tune", project)
    assert done.returncode == 0, done.stderr
    assert "model.family is auto: cnn" in done.stdout
    best = yaml.safe_load((project / "data/tune/best.yaml").read_text())
    with (project / "data/tune/trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model.family"] for row in rows[:2]} == {"cnn", "transformer"}
    assert not [row for row in rows if row["state"] == "fail"]
    families = best["families"]
    leading = min((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["val_loss"]))
    assert next(iter(families)) == leading["model.family"]
    for name, entry in families.items():
        mine = [row for row in rows if row["model.family"] == name]
        assert entry["trials"] == len(mine)
        assert entry["best"] == pytest.approx(
            min(float(row["val_loss"]) for row in mine if row["state"] == "complete")
        )
        assert f"{name} best {entry['best']:.4f} ({entry['trials']} trials)" in done.stdout
    finals = best["finals"]
    assert [each["given"] for each in finals["settings"]] == [True, *[False] * (len(finals["settings"]) - 1)]
    winner = min(finals["settings"], key=lambda each: each["mean"])
    assert best["trial"] == winner["trial"]
    assert best["params"]["model.family"] == rows[winner["trial"]]["model.family"]
    assert f"tune: {finals['told']}" in done.stdout
    with (project / "data/tune/finals.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(finals["settings"])
    assert (project / "data/tune/plots/finals.png").exists()
    trained = run_stage("train", project)
    assert trained.returncode == 0, trained.stderr
    run = read_json(project / "data/train/run.json")
    assert (run["families"], run["finals"]) == (families, finals)
    assert read_json(project / "data/train/model.json")["family"] == best["params"]["model.family"]
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db"
    )  # which MLflow keeps open by name
    forget()
    logged = tracking.Run(best_run(done.stdout)).children()
    assert sum("final" in child.tags for child in logged) == 2 * len(finals["settings"])
    forget()


def best_run(printed: str) -> str:
    """The tuning run that the stage names."""
    return printed.rpartition("MLflow run ")[2].split()[0]

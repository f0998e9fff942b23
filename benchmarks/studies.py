"""A project that holds just what the stage `tune` needs, for benchmarks that run, time and kill that stage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml

from benchmarks import training
from pipeline.tuning.storage import opened
from serving.inputs.spec import write_json

ROOT = Path(__file__).parents[1]
SPACE = {
    "train.lr": {"low": 0.001, "high": 0.02, "log": True},
    "model.width": {"choices": [4, 8]},
    "train.batch_size": {"choices": [32, 64, 128]},
}


class Project:
    """A folder with drawn images, in which `python -m pipeline.tune` runs.

    Args:
        samples: images to train on.
        tune: keys of that section.
        compute: keys of that section.
    """

    def __init__(self, folder: Path, samples: int, tune: dict[str, Any], compute: dict[str, Any]) -> None:
        self.folder = folder
        draw = np.random.default_rng(0)
        for name, count in (("augment", samples), ("prepare/val", samples // 4)):
            labels = draw.integers(0, 10, count)
            images = draw.integers(0, 128, (count, 1, 28, 28)) + 12 * labels[:, None, None, None]
            (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            training.write(folder / "data" / name, images.astype(np.uint8), labels)
        (folder / "data/prepare/transform").mkdir(parents=True)
        write_json(folder / "data/prepare/transform/transform.json", training.TRANSFORM)
        self.set(tune, compute)

    def set(self, tune: dict[str, Any], compute: dict[str, Any]) -> None:
        """Write params.yaml: random search without pruning, and what is given."""
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params["model"]["family"] = "cnn"
        params["tune"] |= {
            "sampler": "random",
            "pruner": "none",
            "minutes": 600.0,
            "space": SPACE,
            "top": 1,
        } | tune
        params["compute"] |= {"accelerator": "cpu"} | compute
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def start(self) -> subprocess.Popen[bytes]:
        """Start the stage, in a session of its own; it writes to `log`."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pipeline.tune"], cwd=self.folder, stdout=log, stderr=log,
                start_new_session=True, env=environment | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def run(self) -> None:
        """Run the stage to its end."""
        process = self.start()
        assert process.wait() == 0, (self.folder / "log").read_text()[-3000:]

    def study(self) -> optuna.Study:
        """The study of the project."""
        storage = opened(f"sqlite:///{self.folder}/.fairlead/studies.db")
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage)

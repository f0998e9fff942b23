"""The searches that `tuning` compares: ours and Ray Tune's, of a small network on digits, one trial at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.rareimages import write
from models.params import Model
from pipeline.fitting.augmentation import Augmentation
from pipeline.fitting.compute import Compute
from pipeline.fitting.fit import Job, Train, fit
from pipeline.fitting.space import Domain, Plain
from pipeline.sources import Data, open_source
from pipeline.tuning.search import Coordinator, Plan
from pipeline.tuning.settings import Tune
from pipeline.tuning.trial import settled
from serving.inputs.spec import Transform

EPOCHS, REDUCTION = 27, 3  # of a whole trial
ROWS, HELD = 800, 600  # samples in training and in validation
SPACE = {
    "train.lr": Domain(low=0.0001, high=0.3, log=True),
    "train.weight_decay": Domain(low=0.0001, high=0.5, log=True),
    "train.label_smoothing": Domain(low=0.0, high=0.3),
    "train.batch_size": Domain(choices=(32, 64, 128)),
    "model.width": Domain(low=8, high=64, log=True),
    "model.depth": Domain(choices=(1, 2, 3)),
    "model.dropout": Domain(low=0.0, high=0.6),
}


@dataclass
class Walk:
    """What a search did: epochs spent and what each whole trial ended with, in order."""

    epochs: int = 0
    ends: list[tuple[int, float, float]] = field(default_factory=list)  # epochs so far, loss, score
    seconds: float = 0.0

    def add(self, losses: list[float], score: float) -> None:
        """A trial that ended, whole or not."""
        self.epochs += len(losses)
        if len(losses) == EPOCHS and np.isfinite(losses[-1]):
            self.ends.append((self.epochs, losses[-1], score))

    def until(self, target: float) -> float:
        """Epochs until a whole trial reached a loss; infinite where none did."""
        return min((at for at, loss, _ in self.ends if loss <= target), default=float("inf"))

    def within(self, epochs: int) -> Walk:
        """Its beginning."""
        ends = [end for end in self.ends if end[0] <= epochs]
        return Walk(min(epochs, self.epochs), ends, self.seconds * min(1.0, epochs / max(1, self.epochs)))

    @property
    def best(self) -> tuple[float, float]:
        """Loss and score of the best whole trial."""
        return min(((loss, score) for _, loss, score in self.ends), default=(float("inf"), 0.0))


def digits(folder: Path, seed: int) -> Job:
    """A job on some of the packaged digits, others for each seed."""
    source = open_source(Data(source="mnist"))
    chunks = [chunk.columns for chunk in source.chunks(512, [])]
    images = np.concatenate([np.asarray(chunk["image"]) for chunk in chunks])
    labels = np.concatenate([np.asarray(chunk["label"]) for chunk in chunks])
    order = np.random.default_rng(seed).permutation(len(labels))
    train, val = order[:ROWS], order[ROWS : ROWS + HELD]
    write(folder / "train", source.spec, images[train], labels[train])
    write(folder / "val", source.spec, images[val], labels[val])
    return Job(
        Model(family="fnn"),
        Train(max_epochs=EPOCHS, patience=0, doctor=False, augmentation=Augmentation(strength=0)),
        source.spec, Transform(mean=(33.0,), std=(78.0,)), folder / "train", folder / "val", seed,
        Compute(accelerator="cpu", threads=1),
    )  # fmt: skip


class Limited(Coordinator):
    """Our search, that begins no trial once so many epochs are spent."""

    walk: Walk
    most: int

    def may_begin(self) -> bool:
        """True while epochs are left."""
        return self.walk.epochs < self.most


def ours(job: Job, folder: Path, sampler: str, pruner: str, most: int) -> Walk:
    """A search as `tune` makes it."""
    settings = Tune.model_validate(
        {"space": SPACE, "sampler": sampler, "pruner": pruner, "trials": 10_000, "minutes": 1000,
         "max_epochs": EPOCHS, "reduction": REDUCTION}
    )  # fmt: skip
    walk = Walk()

    def after(trial: FrozenTrial, curve: list[dict[str, float]]) -> None:
        del trial
        walk.add([epoch["val_loss"] for epoch in curve], curve[-1]["val_score"] if curve else 0.0)

    study = optuna.create_study()
    search = Limited(study, Plan(settings, (job,), job.seed, folder, job.compute), after)
    search.walk, search.most = walk, most
    search.shown.console.quiet = True
    began = time.perf_counter()
    search.run()
    walk.seconds = time.perf_counter() - began
    assert not study.get_trials(states=(TrialState.RUNNING,))
    return walk


def asha(job: Job, folder: Path, most: int) -> Walk:
    """Ray Tune's asynchronous successive halving, on the same function, in a worker that is kept."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.stopper import Stopper

    class Spent(Stopper):
        """Ends all once so many epochs are spent."""

        epochs = 0

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self.epochs += 1
            return False

        def stop_all(self) -> bool:
            return self.epochs >= most

    tuner = tune.Tuner(
        tune.with_parameters(trained, job=job),
        param_space={name: drawn(domain) for name, domain in SPACE.items()},
        tune_config=tune.TuneConfig(
            metric="val_loss", mode="min", num_samples=10_000, max_concurrent_trials=1, reuse_actors=True,
            scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=1, reduction_factor=REDUCTION),
            search_alg=BasicVariantGenerator(random_state=job.seed),
        ),
        run_config=tune.RunConfig(storage_path=str(folder), stop=Spent(), verbose=0),
    )  # fmt: skip
    ray.init(
        "local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error",
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    try:
        began = time.perf_counter()
        found = tuner.fit()
        walk = Walk(seconds=time.perf_counter() - began)
    finally:
        ray.shutdown()
    tables = [table for each in found if (table := each.metrics_dataframe) is not None and len(table)]
    for table in sorted(tables, key=lambda table: float(table["at"].iloc[-1])):
        walk.add(table["val_loss"].tolist(), float(table["val_score"].iloc[-1]))
    return walk


def trained(config: Plain, job: Job) -> None:
    """The function for Ray Tune: fit, reporting each epoch."""
    from ray import tune

    def report(epoch: int, metrics: dict[str, float]) -> None:
        loss = metrics["val_loss"] if np.isfinite(metrics["val_loss"]) else 1e9
        tune.report({"val_loss": loss, "val_score": metrics["val_score"], "at": time.time()})

    fit(settled(job, config, SPACE), [report])


def drawn(domain: Domain) -> Any:
    """The domain as Ray Tune draws it."""
    from ray import tune

    if domain.choices:
        return tune.choice(list(domain.choices))
    low, high = domain.low, domain.high
    assert low is not None
    assert high is not None
    if isinstance(low, int):
        return tune.lograndint(low, int(high) + 1) if domain.log else tune.randint(low, int(high) + 1)
    return tune.loguniform(low, high) if domain.log else tune.uniform(low, high)

"""Puts together what a training needs: the task around the network, and batches."""

from __future__ import annotations

import numpy as np

from models.adversarial import Adversarial
from models.mixing import build as build_mixer
from models.recomputing import recompute
from models.reconstruction import Reconstruction
from models.served import Served
from models.sharding import state_of
from models.tasks import Supervised
from models.together import synchronise
from models.transfer import Transfer
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.fitting import groups
from pipeline.fitting.augmentation import build as build_augmentation
from pipeline.fitting.batches import Batches
from pipeline.fitting.contradictions import contradictions
from pipeline.fitting.features import features, fixed
from pipeline.fitting.pretrained import weights_file
from pipeline.fitting.privacy import private_task
from pipeline.fitting.secret import Secret
from pipeline.fitting.settings import Job, Train
from pipeline.fitting.trainer import device_of
from pipeline.generation import Judge
from serving.inputs.spec import DataSpec, Task

TASKS: dict[Task, type[Supervised]] = {
    "classification": Supervised, "regression": Supervised, "anomaly": Reconstruction, "generation": Adversarial,
}  # fmt: skip


def assemble(job: Job, secret: Secret | None = None) -> tuple[Supervised, Batches, Batches]:
    """The task and its training and validation batches; with a `secret`, those of private training."""
    check_suits(job.train, job.spec)
    check_together(job)
    device = device_of(job.compute)
    try:
        served = Served(job.model, job.spec, job.transform)
        if isinstance(served.net, Transfer):
            served.net.open(job.train.unfreeze)  # refuses more than there are
            served.net.pretrain(weights_file(served.net.weights))
        mix = build_mixer(job.train, job.spec)
    except ValueError as error:
        raise UserError(str(error)) from None
    augment = build_augmentation(job.train.augmentation, job.spec, job.transform)
    given: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    cached = job.compute.cache_features and not groups.shards(job.compute)
    if cached and fixed(served, augment, mix is not None, job.train.unfreeze):
        with groups.first_alone():
            given = (features(served, job.train_folder, device), features(served, job.val_folder, device))
        served.lift()
    synchronise(served, device)
    train = Batches(
        job.train_folder, job.train.batch_size, device,
        shuffle_seed=job.seed, sampling=job.train.sampling, inputs=given[0], secret=secret,
    )  # fmt: skip
    val = Batches(job.val_folder, 512, device, inputs=given[1])
    steps = -(-len(train) // job.train.accumulate) * job.train.max_epochs
    counts = train.counts if job.spec.task == "classification" else None
    kind = private_task(job.spec.task) if secret else TASKS[job.spec.task]
    task = kind(served, job.train, augment, steps, mix, counts)
    task.size, task.rows = train.size, train.rows
    if isinstance(task, Adversarial):
        task.measure, task.clip = Judge(Dataset(job.train_folder)).measure, job.train.gradient_clip
    if job.compute.checkpoint_activations:
        recompute(served.net)
    task.train()  # Lightning takes each module as it finds it, so that a frozen trunk may stay in evaluation mode
    return task, train, val


def put_together(served: Served, job: Job) -> Served:
    """The whole of a network of which each process holds a part."""
    whole = Served(job.model, job.spec, job.transform)
    whole.load_state_dict(state_of(served))
    return whole


def check_together(job: Job) -> None:
    """Refuse parameters that exclude each other, which a trial may have brought together.

    Raises:
        UserError: with a line for each contradiction.
    """
    sections = {"model": job.model, "train": job.train, "compute": job.compute}
    if found := contradictions({name: section.model_dump() for name, section in sections.items()}):
        raise UserError("\n".join(rule.message for rule in found))


def check_suits(train: Train, spec: DataSpec) -> None:
    """Refuse what the task has no use for.

    Raises:
        UserError: something of classes is asked for a regression, or the reverse.
    """
    defaults = type(train)()
    ofs = {"classification": ("class_weights", "focal", "sampling"), "regression": ("huber",)}
    if spec.task == "generation":
        ofs |= {
            "classification": ("class_weights", "focal"),
            "training without an adversary": ("l1", "mixup", "cutmix"),
        }
    for task, names in ofs.items():
        for name in names:
            if task != spec.task and getattr(train, name) != getattr(defaults, name):
                raise UserError(
                    f"train.{name} is of use to a {task}, and the task is a {spec.task}; "
                    f"set it to {getattr(defaults, name)}"
                )

"""One model, trained by processes on several machines of a cluster: Ray Train starts them and brings them together.

Each process calls our own `member`, which Lightning fits within, as it does for processes of one machine: Ray's own
classes for Lightning are not needed, as the group of processes exists when Lightning begins, and they fit only where
the distribution `lightning` is absent. Epochs come back through the desk, and this process alone tells MLflow. Where a
process or a machine is lost, Ray Train starts all anew, and they go on from the last checkpoint.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.params import UserError
from pipeline.engine.ray_cluster import alive, enter, joined, shared_folder
from pipeline.engine.ray_tasks import desk_beside, needs
from pipeline.engine.tasks import sendable

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback

    from models.served import Served
    from pipeline.fitting.epochlog import EpochHook
    from pipeline.fitting.fit import Job

RESTARTS = 3  # of the processes together, after one was lost
TOLD, OVER = 1, 0  # who asks at the desk: a process, or that there are no more


def fit_on_ray(
    job: Job, hooks: list[EpochHook], checkpoints: Path | None, callbacks: list[Callback] | None
) -> Served:
    """As `fit_together`, by processes that Ray Train starts on the machines of a cluster.

    Raises:
        UserError: Ray is not installed, no cluster answers or has room, or processes were lost again and again.
    """
    from pipeline.fitting.groups import check
    from pipeline.fitting.processes import Told

    check(job, job.compute.processes, 0)
    told = Told(job, hooks, callbacks)
    with joined(job.compute.ray_address) as ray, shared_folder() as mark:
        asked = resources(ray, job)
        desk = desk_beside(ray)
        given = {
            "job": job, "mark": mark, "desk": desk, "callbacks": told.sent,
            "checkpoints": checkpoints.absolute() if checkpoints else None,
        }  # fmt: skip
        listened = Listened(ray, desk, told)
        try:
            listened.listen(lambda: train(ray, given, job.compute.processes, asked, Path(f"{mark}.train")))
        finally:
            ray.kill(desk)  # processes that still run ask in vain, and end
            shutil.rmtree(f"{mark}.train", ignore_errors=True)
    return told.served


def resources(ray: Any, job: Job) -> dict[str, float]:
    """What each process needs, as Ray Train calls it.

    Raises:
        UserError: the cluster has less.
    """
    compute = job.compute.model_copy(update={"gpus_per_trial": 1.0})
    nodes = alive(ray)
    asked = {
        {"num_cpus": "CPU", "num_gpus": "GPU"}[name]: count for name, count in needs(nodes, compute).items()
    }
    room = sum(min(int(node.get(name, 0) // count) for name, count in asked.items()) for node in nodes)
    if room < compute.processes:
        raise UserError(
            f"compute.processes is {compute.processes}, and the Ray cluster of {len(nodes)} nodes has room for {room} "
            f"of {', '.join(f'{count:g} {name}' for name, count in asked.items())} each"
        )
    return asked


def train(ray: Any, given: dict[str, Any], processes: int, asked: dict[str, float], scratch: Path) -> None:
    """Run Ray Train until all processes have ended well."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = "GPU" in asked
    TorchTrainer(
        one_of_many,
        train_loop_config=given,
        scaling_config=ray.train.ScalingConfig(
            num_workers=processes, use_gpu=gpu, resources_per_worker=asked
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=ray.train.RunConfig(
            name=scratch.name,
            storage_path=str(scratch),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
        ),
    ).fit()


def one_of_many(given: dict[str, Any]) -> None:
    """What each process does: its part of the training; errors of its own are told once, and begin nothing anew."""
    import ray
    import ray.train

    from pipeline.fitting.groups import Place
    from pipeline.fitting.processes import member

    def tell(message: Any) -> Any:
        return ray.get(given["desk"].ask.remote(TOLD, message))

    if not tell(("begin",)):
        return
    here = ray.train.get_context()
    place = Place(
        here.get_world_rank(), here.get_world_size(), here.get_local_rank(), here.get_local_world_size(),
        here.get_node_rank(),
    )  # fmt: skip
    try:
        enter(given["mark"])
        member(given["job"], place, tell, given["checkpoints"], given["callbacks"])
    except RuntimeError:  # another was lost, perhaps: to be begun anew
        raise
    except Exception as error:
        tell(("error", sendable(error)))
        raise


class Listened:
    """Takes what processes tell, in this thread, while Ray Train runs in another."""

    def __init__(self, ray: Any, desk: Any, told: Any) -> None:
        self.ray, self.desk, self.told = ray, desk, told
        self.wrong: Exception | None = None
        self.ended: Exception | None = None

    def listen(self, run: Any) -> None:
        """Run, and take what is told meanwhile.

        Raises:
            UserError: processes were lost again and again.
        """
        thread = threading.Thread(target=self._run, args=(run,), name="ray-train", daemon=True)
        thread.start()
        while True:
            asker, number, message = self.ray.get(self.desk.take.remote())
            if asker == OVER:
                break
            self.desk.answer.remote(number, self._take(message))
        thread.join()
        if self.wrong is not None:
            raise self.wrong
        if self.ended is not None:
            reason = str(self.ended).strip().splitlines()[-1]
            raise UserError(f"training on the Ray cluster was given up after {RESTARTS} restarts: {reason}")

    def _run(self, run: Any) -> None:
        try:
            run()
        except Exception as error:
            self.ended = error
        finally:
            self.desk.ask.remote(OVER, None)

    def _take(self, message: Any) -> bool:
        kind, *rest = message
        if kind == "begin":
            return self.wrong is None
        if kind == "error":
            self.wrong = self.wrong or rest[0]
        else:
            self.told.take(message)
        return True

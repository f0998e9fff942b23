"""Several families in one study: which may be compared, what each reads of a trial's values, and how each did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from models import families
from models.params import Model
from models.served import Served
from pipeline.core.params import UserError
from pipeline.fitting.conditions import FAMILY, OWN
from pipeline.fitting.fit import Job
from pipeline.fitting.space import Plain, Space, override

WIDTH, HEADS = "model.width", "model.heads"


def named(space: Space) -> tuple[str, ...]:
    """The families that a space names; empty where the family is not tuned."""
    return tuple(map(str, space[FAMILY].choices)) if FAMILY in space else ()


def prepared(job: Job, space: Space) -> Job:
    """The job to begin a study with: its family is one of those that are compared.

    Raises:
        UserError: a family does not fit the data, or cannot be built with the given values.
    """
    fitting = families(job.spec.modality, job.spec.task)
    if wrong := [name for name in named(space) if name not in fitting]:
        raise UserError(
            f"tune.space: '{FAMILY}': {', '.join(wrong)} cannot be tuned for {job.spec.task} of modality "
            f"'{job.spec.modality}'; expected some of {', '.join(fitting)}"
        )
    for name in named(space):
        try:
            Served(settled(job.model, {FAMILY: name}, space), job.spec, job.transform)
        except ValueError as error:
            raise UserError(str(error)) from None
    if named(space) and job.model.family not in named(space):
        return replace(job, model=override(job.model, "model", {FAMILY: named(space)[0]}))
    return job


def settled(model: Model, values: Plain, space: Space) -> Model:
    """The model of a trial: what its family does not read stays as given, and heads divide a width that is tuned.

    A transformer's width that they do not divide becomes the nearest that they do.
    """
    family = values.get(FAMILY, model.family)
    found = override(model, "model", {k: v for k, v in values.items() if family in OWN.get(k, (family,))})
    tuned = {WIDTH, HEADS} & set(space) or named(space)
    if family == "transformer" and tuned and found.width % found.heads:
        width = found.heads * max(1, round(found.width / found.heads))
        found = override(found, "model", {WIDTH: width})
    return found


def chosen(model: Model, values: Plain, space: Space) -> Plain:
    """A trial's values as they were used, to be laid over the given ones by `train`."""
    found = settled(model, values, space).model_dump()
    kept = {name: found[name.partition(".")[2]] if name in OWN else value for name, value in values.items()}
    if WIDTH in values or found["width"] != model.width:
        kept[WIDTH] = found["width"]
    return kept


def first_trials(values: Plain, space: Space) -> list[Plain]:
    """The given values once for each family, that of `values` first."""
    rest = [name for name in named(space) if name != values.get(FAMILY)]
    return [values, *({**values, FAMILY: name} for name in rest)]


def compared(trials: Iterable[FrozenTrial]) -> dict[str, dict[str, Any]]:
    """Of each family how many trials it had, and its best value; None where none was finished. The best comes first."""
    found: dict[str, dict[str, Any]] = {}
    for trial in trials:
        if FAMILY not in trial.params:
            continue
        entry = found.setdefault(str(trial.params[FAMILY]), {"best": None, "trials": 0, "finished": 0})
        entry["trials"] += 1
        if trial.state == TrialState.COMPLETE:
            loss = trial.user_attrs.get(
                "val_loss", trial.values[0]
            )  # the first of several objectives may be another
            entry["finished"] += 1
            entry["best"] = loss if entry["best"] is None else min(entry["best"], loss)
    ranked = sorted(found.items(), key=lambda item: (item[1]["best"] is None, item[1]["best"] or 0.0))
    return dict(ranked)


def told(found: dict[str, dict[str, Any]]) -> str:
    """The comparison in one line."""
    parts = []
    for name, entry in found.items():
        best = "none finished" if entry["best"] is None else f"best {entry['best']:.4f}"
        parts.append(f"{name} {best} ({entry['trials']} trials)")
    return ", ".join(parts)

"""What of `tune` cannot go together, told before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from pipeline.core.params import PARAMS, UserError, read, where
from pipeline.fitting.conditions import always, combinations, misplaced
from pipeline.fitting.space import Space
from pipeline.tuning.settings import FIRST_FOLDS, Tune

POINTS = 10_000  # of a grid at most
FITTED = 1_000  # trials up to which a Gaussian process answers in seconds
Problem = tuple[tuple[str, ...], str]  # a location below 'tune', and what is wrong there


def check(settings: Tune, folds: int, path: Path = PARAMS, inner: int | None = None) -> None:
    """Refuse settings that contradict each other; `folds` are those that `prepare` makes, `inner` those in each.

    Raises:
        UserError: one line for each contradiction.
    """
    if problems := [*contradictions(settings, folds), *_nested(settings, folds, inner)]:
        text = read(path) if path.exists() else ""
        raise UserError("\n".join(f"{where(('tune', *at), text, path)}: {said}" for at, said in problems))


def contradictions(settings: Tune, folds: int) -> Iterator[Problem]:
    """Every contradiction; none where nothing is searched."""
    if not settings.trials or not settings.space:
        return
    for name in settings.space:
        if problem := misplaced(name, settings.space):
            yield ("space", name, "when"), f"tune.space: {problem}"
            return  # what follows takes the conditions for right
    yield from _objectives(settings)
    yield from _pruner(settings, folds)
    if settings.sampler in SAMPLERS:
        yield from SAMPLERS[settings.sampler](settings)


def _objectives(settings: Tune) -> Iterator[Problem]:
    objectives = settings.objectives
    if len(set(objectives)) < len(objectives):
        yield ("objectives",), "'tune.objectives' names one twice"
    if "val_loss" not in objectives:
        yield (
            ("objectives",),
            "'tune.objectives' must hold val_loss: what is small or fast alone learns nothing",
        )
    fixed = [name for name in objectives if name in ("latency_ms", "parameters")]
    if fixed and not any(name.startswith("model.") for name in settings.space):
        yield (
            ("objectives",),
            f"'tune.objectives' names {fixed[0]}, and all trials have the same, as tune.space holds no key of 'model'",
        )


def _pruner(settings: Tune, folds: int) -> Iterator[Problem]:
    if settings.pruner == "wilcoxon" and folds <= FIRST_FOLDS:
        yield (
            ("pruner",),
            f"'tune.pruner' wilcoxon compares trials after {FIRST_FOLDS} folds and so needs more; "
            f"prepare.folds.number is {folds}; make it 5, or take hyperband",
        )
    if settings.pruner != "none" and len(settings.objectives) > 1:
        yield (
            ("pruner",),
            f"'tune.pruner' is {settings.pruner}, and of several tune.objectives none says which trial is the worse; "
            "set it to none",
        )


def _nested(settings: Tune, folds: int, inner: int | None) -> Iterator[Problem]:
    if settings.nested and inner is not None and not (folds and inner):
        yield (
            ("nested",),
            f"'tune.nested' searches in folds within folds; prepare.folds has number {folds} and inner {inner}; "
            "make them 5 and 3, or nested false",
        )


def _grid(settings: Tune) -> Iterator[Problem]:
    bare = [name for name, domain in settings.space.items() if not domain.grid()]
    for name in bare:
        yield ("space", name), f"tune.space: '{name}' is a range, of which a grid needs 'points' or 'step'"
    if bare:
        return
    count = sum(1 for _ in islice(combinations(settings.space), POINTS + 1))
    if count > POINTS:
        yield ("space",), f"tune.space has more than {POINTS} combinations, too many for a grid; take random"
    elif count > settings.trials:
        yield (
            ("trials",),
            f"'tune.trials' is {settings.trials} and the grid of tune.space has {count} combinations; give as many "
            "trials, or fewer 'choices' and 'points'",
        )


def _cma_es(settings: Tune) -> Iterator[Problem]:
    if len(settings.objectives) > 1:
        yield ("sampler",), "'tune.sampler' cma-es takes one objective; nsga-ii, tpe and gp take several"
    if all(settings.space[name].choices for name in always(settings.space)):
        yield (
            ("sampler",),
            f"'tune.sampler' cma-es moves ranges, and tune.space {_holds_none(settings.space)}",
        )


def _holds_none(space: Space) -> str:
    ranges = any(not domain.choices for domain in space.values())
    return "has none that every trial is asked for" if ranges else "holds choices alone; take tpe"


def _gp(settings: Tune) -> Iterator[Problem]:
    if settings.trials > FITTED:
        yield (
            ("trials",),
            f"'tune.trials' is {settings.trials}: the time of a Gaussian process grows with the cube of them; "
            f"at most {FITTED} with gp, or take tpe",
        )
    if not always(settings.space):
        yield (
            ("sampler",),
            "'tune.sampler' gp models keys that every trial has, and tune.space holds none; take tpe",
        )


SAMPLERS: dict[str, Callable[[Tune], Iterator[Problem]]] = {"grid": _grid, "cma-es": _cma_es, "gp": _gp}

"""What the finals say: which setting is chosen, how lucky it was, and whether it surely beats the given one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from optuna.trial import FrozenTrial

from pipeline.core.params import UserError
from pipeline.core.resampling import Difference
from pipeline.tuning.finals import Final, Found, Setting, fresh_seeds
from pipeline.tuning.search import Plan
from pipeline.tuning.surely import CONFIDENCE, differences
from pipeline.tuning.trial import METRIC

Word = Literal["better", "unsure", "given", "worse", "luck"]


@dataclass(frozen=True)
class Standing:
    """A setting and its losses with the fresh seeds; none where one of them failed, and why."""

    setting: Setting
    losses: tuple[float, ...]
    reason: str = ""

    @property
    def mean(self) -> float:
        """Over the seeds; infinite where one failed."""
        return sum(self.losses) / len(self.losses) if self.losses else float("inf")

    def plain(self) -> dict[str, Any]:
        """As a dict."""
        about = {"trial": self.setting.trial, "given": self.setting.given, "search": self.setting.search}
        found = {"mean": self.mean, "losses": list(self.losses)} if self.losses else {"reason": self.reason}
        return {**about, **found}


@dataclass(frozen=True)
class Verdict:
    """What the choice rests on.

    Args:
        winner: the setting that is chosen.
        word: whether it is better than the given one: `luck` where nothing was trained again.
        told: the same in a sentence or two.
        gap: what the search said of the winner less what fresh seeds say; None where the search did not say.
        difference: the winner's loss, or that of the best other setting where the given one won, less the given one's.
        samples: validation samples that the interval knows of; 0 where it knows of seeds alone.
    """

    winner: Setting
    word: Word
    told: str
    seeds: tuple[int, ...] = ()
    standings: list[Standing] = field(default_factory=list)
    gap: float | None = None
    difference: Difference | None = None
    samples: int = 0

    def plain(self) -> dict[str, Any]:
        """As it is written in `best.yaml`."""
        found: dict[str, Any] = {"verdict": self.word, "told": self.told}
        if self.seeds:
            found |= {"seeds": list(self.seeds), "settings": [each.plain() for each in self.standings]}
        if self.gap is not None:
            found["optimism_gap"] = self.gap
        if self.difference is not None:
            found["difference"] = {
                **self.difference.plain(),
                "confidence": CONFIDENCE,
                "samples": self.samples,
            }
        return found

    def metrics(self) -> dict[str, float]:
        """As numbers of the tuning run."""
        found = {} if self.gap is None else {"optimism_gap": self.gap}
        if self.difference is not None:
            found |= {f"difference_{name}": value for name, value in self.difference.plain().items()}
        for each in self.standings:
            if each.losses and each.setting in (self.winner, self.standings[0].setting):
                found["fresh_val_loss" if each.setting == self.winner else "fresh_val_loss_given"] = each.mean
        return found


def untested(best: FrozenTrial, settings: list[Setting], trials: int) -> Verdict:
    """The verdict where nothing is trained again."""
    winner = next((each for each in settings if each.trial == best.number), settings[0])
    return Verdict(
        winner, "luck",
        f"{winner.name} did best of {trials} with one training each and was not trained again, so perhaps by luck; "
        "tune.top: 3 trains the best ones again on fresh seeds before one is chosen",
    )  # fmt: skip


def judge(plan: Plan, settings: list[Setting], finals: Found, block: int = 1) -> Verdict:
    """Choose the setting of the lowest mean loss over fresh seeds; the first of `settings` is the given one.

    Raises:
        UserError: none of them could be trained.
    """
    seeds = fresh_seeds(plan.seed, plan.settings.seeds)
    table = [[finals[at, seed] for seed in seeds] for at in range(len(settings))]
    standings = [standing(setting, row) for setting, row in zip(settings, table, strict=True)]
    free = [at for at, each in enumerate(standings) if each.losses and each.setting.free]
    if not free:
        raise UserError(
            "none of the best settings could be trained again on fresh seeds; one failed with "
            f"{next(each.reason for each in standings if each.reason)}; set tune.top to 1 to choose by the search alone"
        )
    best = min(free, key=lambda at: standings[at].mean)
    others = [at for at, each in enumerate(standings) if each.losses and at]
    rival = best or min(others, key=lambda at: standings[at].mean, default=0)
    difference, samples = None, 0
    if rival and standings[0].losses and len(seeds) > 1:
        found, samples = compared(standings, table, [0, *others], plan.seed, block)
        difference = found[others.index(rival)]
    word, told = sentence(standings, best, rival, difference)
    searched, gap = settings[best].search, None
    if searched is not None:
        gap = searched - standings[best].mean
        told += f"; the search said {searched:.4f} of {settings[best].name}, fresh seeds say {standings[best].mean:.4f}"
    return Verdict(settings[best], word, told, seeds, standings, gap, difference, samples)


def standing(setting: Setting, finals: list[Final]) -> Standing:
    """What the trainings of a setting gave together."""
    losses = tuple(final.loss for final in finals if final.loss is not None)
    if len(losses) == len(finals):
        return Standing(setting, losses)
    return Standing(setting, (), next(final.reason for final in finals if final.loss is None))


def compared(
    standings: list[Standing], table: list[list[Final]], rows: list[int], seed: int, block: int
) -> tuple[list[Difference], int]:
    """The difference of each of some settings to the first, and how many validation samples were looked at."""
    losses = sampled([table[at] for at in rows])
    values = np.array([standings[at].losses for at in rows])
    return differences(values, losses, seed, block), 0 if losses is None else losses.shape[2]


def sampled(table: list[list[Final]]) -> np.ndarray | None:
    """The losses (C, S, N) of single samples, where every training has them, and as many."""
    parts = [[final.samples for final in row] for row in table]
    sizes = {-1 if part is None else len(part) for row in parts for part in row}
    return None if len(sizes) > 1 or sizes == {-1} else np.array(parts, np.float64)


def sentence(
    standings: list[Standing], best: int, rival: int, difference: Difference | None
) -> tuple[Word, str]:
    """Whether the winner is better than the given setting, in a word and in a sentence."""
    given, other = standings[0], standings[rival]
    barred = (
        "" if given.setting.free else ", which may not be chosen as it is not known to keep tune.constraints"
    )
    if not given.losses:
        return "unsure", f"the given setting could not be trained on fresh seeds: {given.reason}"
    if not rival:
        return "given", "the search found no other setting than the given one that could be trained again"
    if difference is None:
        gap = other.mean - given.mean
        said = f"with one fresh seed nothing is sure (tune.seeds: 2 and more give an interval): {METRIC} {gap:+.4f}"
        return (
            "given" if not best else "unsure"
        ), f"{said} by {other.setting.name} against the given setting{barred}"
    if not best:
        return "given", (
            f"no tuned setting is better than the given one on fresh seeds, so the given values stay; the best other, "
            f"{other.setting.name}: {METRIC} {difference}"
        )
    if difference.high < 0:
        return "better", f"the tuned setting is better than the given one: {METRIC} {difference}"
    if difference.low > 0:
        return "worse", f"the tuned setting is worse than the given one{barred}: {METRIC} {difference}"
    return (
        "unsure",
        f"the tuned setting is not surely better than the given one{barred}: {METRIC} {difference}",
    )

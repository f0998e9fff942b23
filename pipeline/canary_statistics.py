"""Statistics of a trial that may be looked at as often as one likes: intervals that hold at every look together.

Ordinary intervals are right at one look that was planned; who looks after every batch and stops when he likes what he
sees is wrong far more often than one time in twenty. These are always-valid: the chance that the truth is *ever*
outside is at most alpha (Ville's inequality on a mixture likelihood ratio; Robbins 1970, Howard et al. 2021). An
effect stays in the interval while no mixture of other effects explains the data 1 / alpha times better than it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln, gammaln, logsumexp, xlogy

Decision = Literal["promote", "roll back", "go on"]
# What a rate may be before anything was seen: anything, or something rare. Only efficiency depends on it.
RATES = ((0.5, 0.5), (0.5, 50.0))
TAIL = ((0.5, 0.5), (2.5, 47.5))  # of the indicator 'slower than the 95th percentile'
QUANTILE = 0.95
FEWEST = 20  # of each arm, before a mean or a quantile is judged
IMPOSSIBLE = -1e300  # log-likelihood of what cannot be
WIDEST = 1e3  # factor beyond which a ratio is not followed


@dataclass(frozen=True)
class Criterion:
    """How much worse the challenger is, positive for worse, and what follows.

    Args:
        name: what is compared.
        value: the estimate.
        low: below it the truth never lies, at the alpha of a harm.
        high: above it the truth never lies, at the alpha of a promotion.
        margin: so much worse it may be at most.
        harm: surely worse than this is a harm.
    """

    name: str
    value: float
    low: float
    high: float
    margin: float
    harm: float = 0.0

    @property
    def verdict(self) -> Literal["harm", "fine", "unsure"]:
        """`harm` where it is surely worse, `fine` where it surely is not by more than the margin."""
        return "harm" if self.low > self.harm else "fine" if self.high < self.margin else "unsure"

    def plain(self) -> dict[str, Any]:
        """As a dict, for receipts; an end that is not known yet is None."""
        known = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }
        return {**known, "verdict": self.verdict}


def decide(criteria: Sequence[Criterion], enough: bool) -> tuple[Decision, str]:
    """Roll back at the first sure harm, whatever else is fine; promote only when there is enough and all is fine."""
    harms = [each for each in criteria if each.verdict == "harm"]
    if harms:
        return "roll back", "; ".join(f"{each.name}: {told(each)}, surely worse" for each in harms)
    unsure = [each.name for each in criteria if each.verdict == "unsure"]
    if unsure or not criteria:
        return "go on", f"not sure yet of {', '.join(unsure) or 'anything'}"
    if not enough:
        return "go on", "not enough requests yet"
    return "promote", "; ".join(f"{each.name}: {told(each)}" for each in criteria)


def told(criterion: Criterion) -> str:
    """The numbers of a criterion in a few words."""
    c = criterion
    return f"{c.value:+.4g} ({c.low:+.4g} to {c.high:+.4g}, margin {c.margin:g})"


# --- the three kinds of comparison


def rates(champion: tuple[int, int], challenger: tuple[int, int], alpha: float) -> tuple[float, float, float]:
    """Difference of two rates, each given as (events, trials): estimate, low, high. Exact, however rare the events."""
    (s0, n0), (s1, n1) = champion, challenger
    if not n0 or not n1:
        return 0.0, -1.0, 1.0
    evidence = _mixed(s0, n0, RATES) + _mixed(s1, n1, RATES)

    def likelihood(d: float) -> float:
        terms = [(s0, 0, 1), (n0 - s0, 1, -1), (s1, d, 1), (n1 - s1, 1 - d, -1)]
        return _most(terms, max(0.0, -d), min(1.0, 1 - d))

    return _around(s1 / n1 - s0 / n0, lambda d: evidence - likelihood(d), alpha)


def pairs(worse: int, better: int, total: int, alpha: float) -> tuple[float, float, float]:
    """Rate of pairs where the challenger is worse less the rate where it is better, as in McNemar's test."""
    if not total:
        return 0.0, -1.0, 1.0
    same = total - worse - better
    counts = np.array([worse, better, same], float)
    priors = np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 50.0]])
    ratios = [_dirichlet(prior + counts) - _dirichlet(prior) for prior in priors]
    evidence = float(logsumexp(ratios) - np.log(len(ratios)))

    def likelihood(d: float) -> float:
        return _most([(better, 0, 1), (worse, d, 1), (same, 1 - d, -2)], max(0.0, -d), (1 - d) / 2)

    return _around((worse - better) / total, lambda d: evidence - likelihood(d), alpha)


def means(
    champion: np.ndarray, challenger: np.ndarray, scale: float, alpha: float, paired: bool = False
) -> tuple[float, float, float]:
    """Difference of two means of (N,) and (M,) numbers, or of pairs (N,): a mixture of normals (mSPRT, Johari 2017).

    Asymptotic: right once the mean of a few dozen is about normal. `scale` is the size of effect that it is best at.
    """
    if min(len(champion), len(challenger)) < FEWEST:
        return 0.0, -np.inf, np.inf
    if paired:
        differences = challenger - champion
        value, variance = differences.mean(), differences.var(ddof=1) / len(differences)
    else:
        value = challenger.mean() - champion.mean()
        variance = sum(part.var(ddof=1) / len(part) for part in (champion, challenger))
    if variance == 0:
        return float(value), float(value), float(value)
    ratio = 1 + scale**2 / variance
    half = float(np.sqrt(variance * ratio / (ratio - 1) * (2 * np.log(1 / alpha) + np.log(ratio))))
    return float(value), float(value) - half, float(value) + half


def quantiles(
    champion: np.ndarray, challenger: np.ndarray, alpha: float, quantile: float = QUANTILE
) -> tuple[float, float, float]:
    """Ratio of the arms' quantiles, challenger over champion, from order statistics of (N,) and (M,) positive numbers.

    Assumes nothing of their distribution: how many numbers lie below the true quantile is binomial.
    """
    if min(len(champion), len(challenger)) < FEWEST:
        return 1.0, 0.0, np.inf
    mine, other = np.sort(challenger), np.sort(champion)
    tables = [_below(len(each), quantile) for each in (other, mine)]
    near = np.flatnonzero(tables[0] < np.log(1 / alpha) + 20)  # elsewhere no ratio can be saved
    first, last = np.r_[-np.inf, other][near[0]], np.r_[other, np.inf][near[-1]]

    def evidence(log_ratio: float) -> float:
        scaled = mine / np.exp(log_ratio)
        places = np.concatenate([other, scaled])
        places = places[(places >= first) & (places <= last)]
        sums = [
            tables[0][np.searchsorted(other, places, side)] + tables[1][np.searchsorted(scaled, places, side)]
            for side in ("left", "right")
        ]
        return float(min(each.min() for each in sums))

    value = np.log(np.quantile(mine, quantile) / np.quantile(other, quantile))
    found = _around(float(value), evidence, alpha, np.log(WIDEST))
    return float(np.exp(found[0])), float(np.exp(found[1])), float(np.exp(found[2]))


# --- what they are made of


def _around(
    value: float, evidence: Callable[[float], float], alpha: float, furthest: float = 1.0
) -> tuple[float, float, float]:
    """The estimate with the effects next to it, each side, against which the (log) evidence is 1 / alpha."""
    limit = float(np.log(1 / alpha))
    ends = []
    for end in (-furthest, furthest):
        if evidence(value) >= limit or evidence(end) < limit:
            ends.append(end)
        else:
            ends.append(float(brentq(lambda d: evidence(d) - limit, value, end, xtol=1e-7)))
    return value, ends[0], ends[1]


def _log(count: int, share: float) -> float:
    """Log-likelihood of `count` outcomes that each have this probability."""
    return 0.0 if not count else count * math.log(share) if share > 0 else IMPOSSIBLE


def _mixed(events: Any, trials: int, priors: Sequence[tuple[float, float]]) -> Any:
    """Log of the likelihood of some events, averaged over what the rate may be."""
    parts = [betaln(a + events, b + trials - events) - betaln(a, b) for a, b in priors]
    return logsumexp(parts, axis=0) - np.log(len(priors))


def _dirichlet(counts: np.ndarray) -> float:
    return float(gammaln(counts).sum() - gammaln(counts.sum()))


def _most(terms: Sequence[tuple[int, float, float]], low: float, high: float) -> float:
    """The largest sum of `count * log(start + slope * p)` over p between two ends: a concave function."""

    def value(p: float) -> float:
        return sum(_log(count, start + slope * p) for count, start, slope in terms)

    def rise(p: float) -> float:
        return sum(count * slope / (start + slope * p) for count, start, slope in terms if count)

    inside = (high - low) * 1e-12
    if high - low <= 1e-12 or rise(low + inside) <= 0:
        return value(low)
    if rise(high - inside) >= 0:
        return value(high)
    return value(float(brentq(rise, low + inside, high - inside, xtol=1e-12)))


def _below(count: int, quantile: float) -> np.ndarray:
    """Log evidence (count + 1,) against a number being the quantile, by how many of the sample lie below it."""
    above = count - np.arange(count + 1)
    rate = 1 - quantile
    return np.asarray(
        _mixed(above, count, TAIL) - (xlogy(above, rate) + xlogy(count - above, quantile)), float
    )

"""The statistics of a trial: right against references, and honest however often one looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.canary_statistics import Criterion, decide, means, pairs, quantiles, rates

ALPHA = 0.05


def criterion(name: str, low: float, high: float, margin: float = 0.1, harm: float = 0.0) -> Criterion:
    return Criterion(name, (low + high) / 2, low, high, margin, harm)


def test_the_first_harm_rolls_back_and_a_promotion_needs_everything() -> None:
    fine, harm, unsure = criterion("a", -0.05, 0.05), criterion("b", 0.01, 0.05), criterion("c", -0.2, 0.2)
    assert decide([fine, harm, unsure], enough=False)[0] == "roll back"
    assert decide([fine, unsure], enough=True) == ("go on", "not sure yet of c")
    assert decide([fine], enough=False) == ("go on", "not enough requests yet")
    assert decide([fine, fine], enough=True)[0] == "promote"
    assert decide([], enough=True)[0] == "go on"
    slow = criterion("latency", 0.05, 0.08, margin=0.25, harm=0.25)
    assert slow.verdict == "fine", "a little slower is within what is tolerated"
    assert criterion("latency", 0.3, 0.5, margin=0.25, harm=0.25).verdict == "harm"


def test_nothing_seen_says_nothing() -> None:
    assert rates((0, 0), (3, 3), ALPHA) == (0.0, -1.0, 1.0)
    assert pairs(0, 0, 0, ALPHA) == (0.0, -1.0, 1.0)
    assert means(np.ones(3), np.ones(3), 1, ALPHA)[1:] == (-np.inf, np.inf)
    assert quantiles(np.ones(3), np.ones(3), ALPHA)[1:] == (0, np.inf)
    plain = Criterion("x", 0.0, -math.inf, math.inf, 0.1).plain()
    assert (plain["low"], plain["high"], plain["verdict"]) == (None, None, "unsure")


@pytest.mark.parametrize("events", [((30, 1000), (45, 800)), ((0, 900), (12, 300)), ((400, 900), (100, 300))])
def test_the_interval_of_rates_holds_the_one_of_a_single_look(
    events: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    """Wider than Newcombe's, which is right at one planned look, by less than 2.5 times, around the estimate."""
    (s0, n0), (s1, n1) = events
    one, other = (stats.binomtest(s, n).proportion_ci(1 - ALPHA, "wilson") for s, n in events)
    value, low, high = rates(*events, ALPHA)
    assert value == pytest.approx(s1 / n1 - s0 / n0)
    newcombe_low = value - math.hypot(s1 / n1 - other.low, one.high - s0 / n0)
    newcombe_high = value + math.hypot(other.high - s1 / n1, s0 / n0 - one.low)
    assert low < newcombe_low < value < newcombe_high < high
    assert high - low < 2.5 * (newcombe_high - newcombe_low)
    mirrored = rates(events[1], events[0], ALPHA)
    assert mirrored == pytest.approx((-value, -high, -low), abs=1e-6)


def test_the_interval_of_rates_is_where_the_evidence_is_one_over_alpha() -> None:
    """Against a brute-force grid over both rates, with the mixture written out by numerical integration."""
    (s0, n0), (s1, n1) = (3, 60), (9, 50)
    grid = (np.arange(4000) + 0.5) / 4000

    def mixed(s: int, n: int) -> float:
        likelihood = grid**s * (1 - grid) ** (n - s)
        return sum(0.5 * float((stats.beta.pdf(grid, 0.5, b) * likelihood).mean()) for b in (0.5, 50))

    p0, p1 = np.meshgrid(grid[::8], grid[::8])
    likelihood = p0**s0 * (1 - p0) ** (n0 - s0) * p1**s1 * (1 - p1) ** (n1 - s1)
    kept = (p1 - p0)[mixed(s0, n0) * mixed(s1, n1) / likelihood < 1 / ALPHA]
    assert rates((s0, n0), (s1, n1), ALPHA)[1:] == pytest.approx((kept.min(), kept.max()), abs=0.005)


def test_pairs_agree_with_mcnemar_and_need_only_those_that_differ() -> None:
    for worse, better in ((40, 12), (12, 40), (25, 25), (3, 0)):
        value, low, high = pairs(worse, better, 500, ALPHA)
        assert value == pytest.approx((worse - better) / 500)
        exact = stats.binomtest(worse, worse + better).pvalue
        assert low <= value <= high
        if low > 0 or high < 0:
            assert exact < ALPHA, "what is sure after any number of looks is sure after one"
    assert pairs(40, 5, 500, ALPHA)[1] > 0
    independent = rates((100, 500), (135, 500), ALPHA)
    paired = pairs(40, 5, 500, ALPHA)
    assert paired[2] - paired[1] < 0.7 * (independent[2] - independent[1]), "pairs tell more"


def test_quantiles_and_means_hold_the_truth_and_shrink() -> None:
    draw = np.random.default_rng(0)
    widths = []
    for count in (300, 3000):
        champion, challenger = draw.lognormal(0, 0.4, count), 1.5 * draw.lognormal(0, 0.4, count)
        value, low, high = quantiles(champion, challenger, ALPHA)
        assert low < 1.5 < high
        assert low <= value <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
    value, low, high = means(draw.exponential(1, 4000), draw.exponential(1.3, 4000), 0.05, ALPHA)
    assert 0 < low < 0.3 < high
    same = draw.exponential(1, 500)
    assert means(same, same, 0.05, ALPHA, paired=True) == (0, 0, 0)
    noise = draw.normal(0, 0.1, 500)
    apart = means(same, same + noise, 0.05, ALPHA, paired=True)
    assert apart[2] - apart[1] < 0.2 * np.subtract(*means(same, same + noise, 0.05, ALPHA)[:0:-1])


def test_the_interval_of_means_is_where_the_evidence_is_one_over_alpha() -> None:
    """Against the mixture of normal likelihoods, integrated over the effects that it is best at."""
    draw = np.random.default_rng(6)
    champion, challenger, scale = draw.normal(1, 1, 400), draw.normal(1.2, 1, 300), 0.1
    value, *ends = means(champion, challenger, scale, ALPHA)
    spread = math.sqrt(champion.var(ddof=1) / 400 + challenger.var(ddof=1) / 300)
    effects = np.linspace(-10, 10, 100_001) * scale
    for end in ends:
        around = stats.norm.pdf(value, end + effects, spread) * stats.norm.pdf(effects, 0, scale)
        evidence = float(around.sum() * (effects[1] - effects[0])) / stats.norm.pdf(value, end, spread)
        assert evidence == pytest.approx(1 / ALPHA, rel=1e-3)


# --- looked at again and again

LOOKS = range(50, 1001, 50)
TRIALS = 100


def ever(sure: list[list[bool]]) -> float:
    """The share of simulated trials in which it was ever so."""
    return float(np.mean([any(each) for each in sure]))


def test_equal_arms_are_rarely_ever_called_worse_however_often_one_looks() -> None:
    """The rate of false rollbacks on errors is at most alpha, where an ordinary test at each look is far above it."""
    draw = np.random.default_rng(1)
    ours, ordinary = [], []
    for _ in range(TRIALS):
        events = draw.random((2, LOOKS[-1])) < 0.05
        seen = [[(int(arm[:n].sum()), n) for arm in events] for n in LOOKS]
        ours.append([rates(*each, ALPHA)[1] > 0 for each in seen])
        z = [
            (s1 - s0) / n / max(1e-9, math.sqrt((s0 + s1) / n * (1 - (s0 + s1) / (2 * n)) / n))
            for (s0, n), (s1, _) in seen
        ]
        ordinary.append([each > stats.norm.ppf(1 - ALPHA) for each in z])
    assert ever(ours) <= ALPHA
    assert ever(ordinary) > 3 * ALPHA, "so looking often without care does matter"


@pytest.mark.parametrize("kind", ["pairs", "means", "quantiles"])
def test_equal_arms_are_rarely_ever_called_different(kind: str) -> None:
    draw = np.random.default_rng(2)
    sure = []
    for _ in range(TRIALS):
        champion, challenger = draw.lognormal(0, 0.5, (2, LOOKS[-1]))
        found = []
        for n in LOOKS[1::4]:
            one, other = champion[:n], challenger[:n]
            if kind == "pairs":
                worse, better = int((other > 1.5 * one).sum()), int((one > 1.5 * other).sum())
                found.append(pairs(worse, better, n, ALPHA)[1] > 0)
            elif kind == "means":
                found.append(means(one, other, 0.05, ALPHA)[1] > 0)
            else:
                found.append(quantiles(one, other, ALPHA)[1] > 1)
        sure.append(found)
    assert ever(sure) <= ALPHA


def test_a_challenger_at_the_margin_is_rarely_ever_promoted() -> None:
    draw = np.random.default_rng(3)
    sure = []
    for _ in range(TRIALS):
        events = draw.random((2, LOOKS[-1])) < np.array([[0.01], [0.04]])
        sure.append(
            [rates(*((int(arm[:n].sum()), n) for arm in events), ALPHA)[2] < 0.03 for n in LOOKS[1::2]]  # type: ignore[arg-type]
        )
    assert ever(sure) <= ALPHA


def test_a_bad_challenger_is_caught_and_a_good_one_passes() -> None:
    draw = np.random.default_rng(4)
    caught, passed = [], []
    for _ in range(40):
        champion, good, bad = (draw.random(LOOKS[-1]) < rate for rate in (0.005, 0.005, 0.06))
        for challenger, kept, wanted in ((bad, caught, 1), (good, passed, 2)):
            ends = [rates((int(champion.sum()), 1000), (int(challenger.sum()), 1000), ALPHA)]
            kept.append([low > 0 if wanted == 1 else high < 0.03 for _, low, high in ends])
    assert ever(caught) > 0.9
    assert ever(passed) > 0.9
    assert rates((0, 50), (5, 5), ALPHA / 3)[1] > 0, "five failures of five are enough"

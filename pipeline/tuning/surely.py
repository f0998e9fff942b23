"""How surely one setting is better than another: intervals that know of seeds and of validation samples alike."""

from __future__ import annotations

import numpy as np

from pipeline.core.resampling import Difference, Resamples

CONFIDENCE, DRAWS = 0.95, 4000


def differences(values: np.ndarray, losses: np.ndarray | None, seed: int, block: int = 1) -> list[Difference]:
    """Each setting's mean loss less that of the first, the given one, so negative for better.

    All intervals hold together with `CONFIDENCE`: a bootstrap of two levels. Samples are drawn with replacement,
    the same for all settings. Seeds are too few to be drawn so: their part follows Student's t, with a variance
    that all settings share, after what setting and seed explain is taken away. As the best of several is picked by
    these very values, the intervals are as wide as the widest of all settings asks for (Dunnett, "A multiple
    comparison procedure", 1955).

    Args:
        values: (C, S) the loss of each setting with each seed, the same seeds for all; S at least 2.
        losses: (C, S, N) of each sample, if there are such.
        seed: of the draws.
        block: samples that are drawn together.
    """
    count, seeds = values.shape
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    freedom = (count - 1) * (seeds - 1)
    generator = np.random.default_rng(seed)
    drawn = generator.normal(scale=(np.square(rest).sum() / freedom / seeds) ** 0.5, size=(DRAWS, count))
    drawn /= np.sqrt(generator.chisquare(freedom, (DRAWS, 1)) / freedom)
    spread = drawn[:, 1:] - drawn[:, :1]
    if losses is not None:
        gaps = losses[1:].mean(1) - losses[0].mean(0)
        gaps -= gaps.mean(1, keepdims=True)
        size = gaps.shape[1]
        spread += np.concatenate([part @ gaps.T / size for part in Resamples(DRAWS, size, seed, block)])
    scale = np.quantile(np.abs(spread), CONFIDENCE, axis=0)
    joint = np.quantile((np.abs(spread) / np.maximum(scale, 1e-300)).max(1), CONFIDENCE)
    return [
        Difference(float(mean), float(mean - half), float(mean + half))
        for mean, half in zip((values[1:] - values[0]).mean(1), joint * scale, strict=True)
    ]

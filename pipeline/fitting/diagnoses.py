"""What facts about a training mean: named diagnoses, each with the change of parameters that it asks for.

Pure functions: the facts are collected by `doctor.py`. Thresholds are far from what healthy trainings show.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

VANISHED = 1e-4  # of the last layers' gradients is left in the first
EXPLODED = 1e4  # times the last layers' gradients in the first
STEEP = 1e3  # norm of the whole gradient
DEAD = 0.5  # share of units that answer alike to every sample
WILD = 0.1  # relative change of weights in one step
STILL = 1e-4
BEATEN = 0.1  # the critic's hinge loss, of 2, below which the generator learns nothing more
COLLAPSED = 0.05  # of the validation samples are covered
FAR = 0.3  # Frechet distance, in variances of the training images, at which images are recognisably wrong
NOTHING = 0.95  # of the loss of a model that knows the classes' shares alone


@dataclass(frozen=True)
class Look:
    """What was seen at one step; every mapping is by the name of a layer, in the order of the network."""

    step: int
    lr: float
    norm: float  # of the whole gradient, before clipping
    gradients: dict[str, float]  # root mean square of each layer's gradient
    changes: dict[str, float]  # norm of the step's change of each layer's weights, relative to theirs
    means: dict[str, float] = field(default_factory=dict)
    stds: dict[str, float] = field(default_factory=dict)
    zeros: dict[str, float] = field(default_factory=dict)  # share of activations that are exactly 0
    dead: dict[str, float] = field(
        default_factory=dict
    )  # share of units stuck where the activation is flat, whatever the sample


@dataclass(frozen=True)
class Facts:
    """A whole training: what was seen, the losses of its epochs, and what a guess without inputs loses in either."""

    looks: tuple[Look, ...]
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]
    train_guess: float
    val_guess: float
    lr: float
    val_score: tuple[float, ...] = ()
    adversarial: bool = (
        False  # then the training loss is the critic's, and the score the share of samples covered
    )


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, how it shows, and what to change."""

    name: str
    evidence: str
    proposal: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}; {self.proposal}"


def lr_too_high(facts: Facts) -> Diagnosis | None:
    """Steps that throw the weights about, and a loss that shows it."""
    change = max((statistics.median(look.changes.values()) for look in _moved(facts)), default=0.0)
    change = change if math.isfinite(change) else math.inf
    worst = max((_finite(loss) for loss in facts.train_loss), default=0.0)
    lost = worst > 2 * facts.train_guess
    lost |= change > 3 * WILD and _best(facts.val_loss) >= NOTHING * facts.val_guess
    if change <= WILD or not lost:
        return None
    return Diagnosis(
        "learning rate too high",
        f"a step changed weights by {_share(change)} of their size, and the training loss stood at {worst:.3g} "
        f"(guessing costs {facts.train_guess:.3g})",
        f"try train.lr: {facts.lr / 10:.1g}, or 0 to have it found",
    )


def lr_too_low(facts: Facts) -> Diagnosis | None:
    """Steps that hardly move anything, and a loss that has not fallen."""
    change = max((max(look.changes.values()) for look in _moved(facts)), default=1.0)
    if not change < STILL or not _best(facts.train_loss) > 0.5 * facts.train_guess:
        return None
    return Diagnosis(
        "learning rate too low",
        f"no step changed any layer by more than {_share(change)} of its size, and the training loss is still "
        f"{facts.train_loss[-1]:.3g}",
        f"try train.lr: {min(facts.lr * 100, 0.005):.1g}, or 0 to have it found",
    )


def vanishing(facts: Facts) -> Diagnosis | None:
    """Gradients that are lost on their way to the first layers."""
    ratio = _depth_ratio(facts)
    if ratio is None or not ratio < VANISHED:
        return None
    return Diagnosis(
        "vanishing gradients",
        f"the first layers get {ratio:.1g} times the gradient of the last",
        "try model.activation: relu, model.normalisation: batch, or a smaller model.depth",
    )


def exploding(facts: Facts) -> Diagnosis | None:
    """Gradients that grow on their way to the first layers, or are no numbers."""
    norms = [look.norm for look in facts.looks]
    ratio = _depth_ratio(facts)
    broken = not all(map(math.isfinite, [*facts.train_loss, *facts.val_loss]))
    steep = bool(norms) and statistics.median(map(_finite, norms)) > STEEP
    if not broken and not steep and (ratio is None or not ratio > EXPLODED):
        return None
    shown = "the loss is no finite number" if broken else f"the gradient's norm reached {max(norms):.2g}"
    return Diagnosis(
        "exploding gradients",
        shown,
        "try train.gradient_clip: 1.0, model.normalisation: batch, or a lower train.lr",
    )


def dead_units(facts: Facts) -> Diagnosis | None:
    """Layers of which most units answer every sample alike, in the last looks."""
    late = facts.looks[len(facts.looks) // 2 :]
    names = {name for look in late for name in look.dead}
    shares = {
        name: statistics.median(look.dead[name] for look in late if name in look.dead) for name in names
    }
    worst = max(sorted(shares), key=lambda name: shares[name], default="")
    if not worst or shares[worst] <= DEAD:
        return None
    return Diagnosis(
        "dead units",
        f"{_share(shares[worst])} of the units of {worst} answer every sample alike",
        "try model.activation: leaky_relu, model.normalisation: batch, or a lower train.lr",
    )


def overfitting(facts: Facts) -> Diagnosis | None:
    """A training loss that goes on falling while validation rises, or never follows."""
    if len(facts.val_loss) < 2 or not all(map(math.isfinite, (*facts.train_loss, *facts.val_loss))):
        return None
    best = min(range(len(facts.val_loss)), key=lambda at: facts.val_loss[at])
    rose = facts.val_loss[-1] - facts.val_loss[best]
    fell = facts.train_loss[-1] < 0.8 * facts.train_loss[best]
    gap = facts.val_loss[-1] - facts.train_loss[-1]
    scale = max(facts.train_guess, facts.val_guess)
    if not (fell and rose > 0.1 * scale) and gap < 0.5 * scale:
        return None
    return Diagnosis(
        "overfitting",
        f"the training loss fell to {facts.train_loss[-1]:.3g} and validation stands at {facts.val_loss[-1]:.3g} "
        f"(its best: {facts.val_loss[best]:.3g}, epoch {best})",
        "try more data or augmentation, model.dropout, train.weight_decay, a smaller model.width, or train.mixup",
    )


def underfitting(facts: Facts) -> Diagnosis | None:
    """A training loss that stays at what guessing costs."""
    if not facts.train_loss or not _best(facts.train_loss) > NOTHING * facts.train_guess:
        return None
    return Diagnosis(
        "underfitting",
        f"the training loss, {_best(facts.train_loss):.3g}, is about what guessing costs, {facts.train_guess:.3g}",
        "try more train.max_epochs, a larger model.width or model.depth, less dropout and augmentation; or the "
        "inputs do not tell the target",
    )


def unstable(facts: Facts) -> Diagnosis | None:
    """A critic that wins outright, images that are all alike, or a quality that was there and is lost again."""
    late = len(facts.val_loss) // 2
    if len(facts.val_loss) < 3:
        return None
    critic = statistics.median(map(_finite, facts.train_loss[late:]))
    best, last = _best(facts.val_loss), _finite(facts.val_loss[-1])
    covered = statistics.median(facts.val_score[late:])
    proposal = "a lower train.lr, train.ema: 0.99, or more model.dropout"
    if critic < BEATEN and best > FAR:
        shown = f"the critic wins outright: its loss is {critic:.2g} of 2, and images stay {best:.2g} from real ones"
        proposal = "a lower train.lr, more model.dropout, a larger model.width, or model.normalisation: batch"
    elif covered < COLLAPSED:
        shown = f"images are all alike: they cover {_share(covered)} of the validation samples"
    elif last > 2 * best and last > best + FAR:
        shown = f"images were {best:.2g} from real ones, and are {last:.2g} again"
    else:
        return None
    return Diagnosis("unstable GAN", shown, f"try {proposal}")


# Causes before effects: what a cause explains is not told again.
EXPLAINS: dict[str, tuple[str, ...]] = {
    "learning rate too high": ("vanishing", "exploding", "dead", "underfitting", "overfitting"),
    "learning rate too low": ("underfitting",),
    "dead units": ("vanishing", "underfitting"),
    "vanishing gradients": ("underfitting",),
    "unstable GAN": ("dead",),
    "exploding gradients": ("unstable", "learning rate too low", "underfitting", "overfitting"),
}
CHECKS: tuple[Callable[[Facts], Diagnosis | None], ...] = (
    lr_too_high, exploding, lr_too_low, dead_units, vanishing, overfitting, underfitting,
)  # fmt: skip
ADVERSARIAL: tuple[Callable[[Facts], Diagnosis | None], ...] = (exploding, unstable, dead_units)


def diagnose(facts: Facts) -> list[Diagnosis]:
    """Everything that is wrong, causes first; empty for a healthy training."""
    found: list[Diagnosis] = []
    for check in ADVERSARIAL if facts.adversarial else CHECKS:
        diagnosis = check(facts)
        explained = [word for earlier in found for word in EXPLAINS.get(earlier.name, ())]
        if diagnosis and not diagnosis.name.startswith(tuple(explained)):
            found.append(diagnosis)
    return found


def report(facts: Facts) -> dict[str, Any]:
    """Facts and diagnoses as plain values for a JSON file; what is not finite becomes null."""
    plain: dict[str, Any] = _plain(
        {**asdict(facts), "diagnoses": [asdict(found) for found in diagnose(facts)]}
    )
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _depth_ratio(facts: Facts) -> float | None:
    """Gradient of the first quarter of the layers over that of the last; the median of the looks."""
    ratios = []
    for look in facts.looks:
        sizes = list(look.gradients.values())
        quarter = max(1, len(sizes) // 4)
        if len(sizes) > 1 and all(map(math.isfinite, sizes)) and max(sizes) > 0:
            first, last = statistics.mean(sizes[:quarter]), statistics.mean(sizes[-quarter:])
            ratios.append(first / last if last > 0 else math.inf)
    return statistics.median(ratios) if ratios else None


def _moved(facts: Facts) -> list[Look]:
    return [look for look in facts.looks if look.changes]


def _best(losses: tuple[float, ...]) -> float:
    return min(map(_finite, losses), default=math.inf)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _share(value: float) -> str:
    return f"{100 * value:.3g} %" if value < 10 else f"{value:.0f} times"

"""How good generated images are, in features that are fitted on training images alone, and the pictures of them.

A judge gives for each test sample, and the image that was generated for its class, a row of what was seen: whether a
reference classifier agrees with the class, whether the sample is covered, whether the image is a copy, then the
features of the image and those of the sample. The metrics weigh these rows as those of `metrics` do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.core.dataset import Dataset
from serving.inputs.generation import HEAD, SEEDS, canonical, latent_of
from serving.inputs.ragged import Rows

COMPONENTS = 16  # principal components that features hold, which are 80 % of the variance of our digits
MOST = 5000  # training images that the components are fitted on
SIDE = 32  # pixels; larger images are averaged down to less than twice that
VOTES = 5  # training neighbours that name a class
BALL = 5  # test neighbours that a sample's surroundings reach to
COPY = 0.01  # share of real test images that lie as near to a training image as a copy
FLAGS = 3  # columns before the features


class Judge:
    """Features of images, and which training images lie near, after one pass over a training set.

    Features (N, F) are principal components of the pixels, divided by the root of their whole variance, so that
    distances do not depend on the size of the images.
    """

    def __init__(self, train: Dataset) -> None:
        from sklearn.decomposition import PCA
        from sklearn.neighbors import KNeighborsClassifier

        self.labels, classes = train.targets, len(train.spec.classes)
        some = np.unique(np.linspace(0, len(train) - 1, min(MOST, len(train))).astype(int))
        flat = shrunk(train.inputs[some])
        count = min(COMPONENTS, len(flat) - 1, flat.shape[1])
        self._pca = PCA(count, svd_solver="full").fit(flat)
        self._scale = float(np.sqrt(self._pca.explained_variance_.sum())) or 1.0
        known = np.concatenate([self.features(rows) for rows in train.input_chunks()])
        self._neighbours = KNeighborsClassifier(min(VOTES, len(known))).fit(known, self.labels)
        self._means = np.zeros((classes, count), np.float32)
        self.pictures = np.zeros((classes, *train.spec.input_shape), np.float32)  # the mean of each class
        for label in np.unique(self.labels):
            self._means[label] = known[self.labels == label].mean(0)
            self.pictures[label] = _mean(train, self.labels == label)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W) from 0 to 255 to features (N, F)."""
        found: np.ndarray = self._pca.transform(shrunk(images)) / self._scale
        return found.astype(np.float32)

    def nearest(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far (N,) the nearest training image of each of these (N, C, H, W) is, and its row (N,)."""
        distance, row = self._neighbours.kneighbors(self.features(images), 1)
        return distance[:, 0], row[:, 0]

    def see(self, labels: np.ndarray, real: np.ndarray, made: np.ndarray) -> np.ndarray:
        """What metrics weigh, (N, 3 + 4 F) float32, of classes (N,), real and generated images (N, C, H, W)."""
        from sklearn.neighbors import NearestNeighbors

        truth, drawn = self.features(real), self.features(made)
        agrees = self._neighbours.predict(drawn) == labels
        around = (
            NearestNeighbors(n_neighbors=min(BALL + 1, len(truth))).fit(truth).kneighbors(truth)[0][:, -1]
        )
        covered = NearestNeighbors(n_neighbors=1).fit(drawn).kneighbors(truth)[0][:, 0] <= around
        limit = np.quantile(self._neighbours.kneighbors(truth, 1)[0], COPY)
        copied = self._neighbours.kneighbors(drawn, 1)[0][:, 0] < limit
        means = self._means[labels]
        flags = np.stack([agrees, covered, copied], axis=1)
        return np.hstack([flags, drawn, means, truth, means]).astype(np.float32)

    def measure(self, labels: np.ndarray, real: np.ndarray, made: np.ndarray) -> tuple[float, float]:
        """What training reports: the distance `frechet`, and the share of samples that are covered."""
        seen, ones = self.see(labels, real, made), np.ones((1, len(labels)))
        return float(frechet(ones, labels, seen)[0]), float(coverage(ones, labels, seen)[0])


def shrunk(images: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) as rows (N, ...) float32, averaged over squares where they are large."""
    count, channels, height, width = images.shape
    factor = max(1, min(height, width) // SIDE)
    tall, wide = height // factor, width // factor
    cut = images[:, :, : tall * factor, : wide * factor].astype(np.float32)
    return cut.reshape(count, channels, tall, factor, wide, factor).mean((3, 5)).reshape(count, -1)


def _mean(train: Dataset, chosen: np.ndarray) -> np.ndarray:
    total, start = np.zeros(train.spec.input_shape), 0
    for rows in train.input_chunks():
        total += rows[chosen[start : start + len(rows)]].sum(0, dtype=np.float64)
        start += len(rows)
    return total / chosen.sum()


def requests_in(test: Dataset, model: Path) -> Iterator[Rows]:
    """What a model is asked for each sample, in chunks: its input, or of a generator its class, its place the seed."""
    if test.spec.task != "generation":
        yield from test.input_chunks()
        return
    latent, labels = latent_of(model), test.targets
    for start in range(0, len(labels), 1024):
        places = range(start, min(start + 1024, len(labels)))
        yield np.stack([canonical(int(labels[at]), at % SEEDS, latent) for at in places])


def seen(test: Dataset, train: Path, outputs: np.ndarray) -> np.ndarray:
    """What metrics weigh: the outputs themselves, or of generated images (N, 2 + C * H * W) what a judge sees.

    The judge knows the training set in the folder `train`.
    """
    if test.spec.task != "generation":
        return outputs
    images = outputs[:, HEAD:].reshape(-1, *test.spec.input_shape)
    return Judge(Dataset(train)).see(test.targets, np.array(test.inputs), images)


def means(test: Dataset, train: Path) -> np.ndarray:
    """Outputs (N, 2 + C * H * W) of a trivial generator: the mean training image of each sample's class."""
    pictures = Judge(Dataset(train)).pictures.reshape(len(test.spec.classes), -1)[test.targets]
    return np.hstack([test.targets[:, None], np.arange(len(test))[:, None] % SEEDS, pictures]).astype(
        np.float32
    )


# The metrics: weights (B, N), class numbers (N,), and what was seen (N, 3 + 4 F), to values (B,).


def agreement(weights: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Share of generated images that their training neighbours hold for the class that was asked for, shape (B,)."""
    return weights @ seen[:, 0] / weights.sum(1)


def coverage(weights: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Share of real images with a generated one nearer than their fifth real neighbour, shape (B,).

    After Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models" (2020).
    """
    return weights @ seen[:, 1] / weights.sum(1)


def copied(weights: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Share of generated images nearer to a training image than all but 1 % of real test images, shape (B,).

    About 0.01 where nothing is copied.
    """
    return weights @ seen[:, 2] / weights.sum(1)


def frechet(weights: np.ndarray, labels: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Frechet distance between Gaussians of generated and of real images with their classes, shape (B,).

    After Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017), and, for the classes, which stand as the
    mean features of each, DeVries et al., "On the Evaluation of Conditional GANs" (2019). The scale is that of the
    training images' variance. Samples make the distance too large, and resamples of them once more.
    """
    halves = np.split(seen[:, FLAGS:].astype(np.float64), 2, axis=1)
    (mean, spread), (other, width) = (_moments(weights, half) for half in halves)
    values, vectors = np.linalg.eigh(spread)
    root = vectors * np.sqrt(values.clip(0))[:, None] @ vectors.transpose(0, 2, 1)
    shared = np.sqrt(np.linalg.eigvalsh(root @ width @ root).clip(0)).sum(1)
    traces = np.trace(spread, axis1=1, axis2=2) + np.trace(width, axis1=1, axis2=2)
    distance: np.ndarray = ((mean - other) ** 2).sum(1) + traces - 2 * shared
    return distance


def _moments(weights: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means (B, D) and covariances (B, D, D) of rows (N, D)."""
    means = weights @ rows / weights.sum(1, keepdims=True)
    squares = np.stack([(rows * weight[:, None]).T @ rows / weight.sum() for weight in weights])
    return means, squares - means[:, :, None] * means[:, None, :]

"""What `model.family: auto` means for given data."""

from __future__ import annotations

from serving.inputs.spec import DataSpec

MANY = 20_000  # rows from which a transformer has enough to learn attention from


def choose(spec: DataSpec, rows: int) -> tuple[str, str]:
    """The family for data of a spec with so many training rows, and why.

    >>> from serving.inputs.spec import Column, DataSpec
    >>> column = Column(name="image", role="input", dtype="|u1", shape=(1, 28, 28))
    >>> choose(DataSpec(modality="image", task="classification", source="", columns=(column,)), 100)
    ('cnn', 'images are learnt well by convolutions')
    """
    if spec.task == "anomaly":
        return "autoencoder", "what is normal is learnt by reconstructing it"
    if spec.modality == "image":
        return "cnn", "images are learnt well by convolutions"
    if spec.modality == "table":
        return "fnn", "tables are learnt well, and fast, by fully connected layers over embeddings"
    if spec.modality == "text" and rows < MANY:
        return "fnn", f"{rows} texts are few, and a bag of their tokens overfits least, and is learnt fast"
    if rows >= MANY:
        return "transformer", f"{rows} rows are enough for attention"
    return "cnn", f"{rows} rows are few, and convolutions learn {spec.modality} from few, and fast"

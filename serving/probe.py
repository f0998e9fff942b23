"""Asks a version its golden requests: does it give the answers that were certified?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from serving.client import Client
from serving.endpoint import RequestError, read_token
from serving.inputs.spec import DataSpec, Transform, read_spec
from serving.predictor import numbers, rounding
from serving.settings import ServerError
from serving.state import golden_requests


class Broken(ServerError):
    """A version that does not come up, or does not answer: the server's log says why."""


def check_golden(
    folder: Path, url: str, name: str, version: str, archive: Path, tolerance: float, timeout: float
) -> int:
    """Let a version answer every golden request of the bundle beside its archive; gives how many there are.

    Args:
        folder: state folder of the server, which holds its token.
        url: the server's address for predictions.
        name: the model's name.
        version: the version, which is asked by its own address.
        archive: its archive in the store.
        tolerance: largest difference of a probability, or of a value in its target's deviations.
        timeout: seconds to wait for one answer.

    Raises:
        Broken: one is not answered.
        ServerError: one is answered by another version, or otherwise than expected.
    """
    bundle = archive.parent / "bundle"
    spec, unit = read_spec(bundle), _unit(bundle)
    requests = golden_requests(archive)
    if not requests:
        raise ServerError(f"no golden requests beside {archive}")
    with Client(url, read_token(folder), f"{name}/{version}", timeout, retries=0) as client:
        for body, content_type, expected in requests:
            what = f"golden request {expected['file']}"
            try:
                answer = client.predict(body, content_type)
            except RequestError as error:
                raise Broken(f"{what} was not answered: {error}") from None
            if answer.get("model_version") != version:
                raise ServerError(f"{what} was answered by version {answer.get('model_version')}")
            apart = _apart(spec, expected, answer, unit)
            if not apart <= tolerance:
                raise ServerError(f"{what} was answered otherwise than certified, by {apart:.2g}")
    return len(requests)


def _unit(bundle: Path) -> np.ndarray:
    """What a difference is measured in, as `certify` does."""
    transform = Transform.model_validate_json((bundle / "transform.json").read_text())
    return np.array(
        transform.target_std or [255.0 if read_spec(bundle).task == "generation" else 1.0], np.float64
    )


def _apart(spec: DataSpec, expected: dict[str, Any], answer: dict[str, Any], unit: np.ndarray) -> float:
    """The largest difference of two answers; infinite where one lacks what the other has."""
    try:
        wanted, found = (np.array(numbers(spec, each), np.float64) for each in (expected, answer))
    except (KeyError, TypeError, ValueError):
        return float("inf")
    if wanted.shape != found.shape:
        return float("inf")
    return float(((np.abs(wanted - found) - 2 * rounding(spec)).clip(min=0) / unit).max())

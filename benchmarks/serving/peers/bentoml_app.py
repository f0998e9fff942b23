"""BentoML: a service whose workers each hold the model; the body is the picture."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from digits import BadImage, Digits, pixels
from PIL.Image import Image as Picture


@bentoml.service(workers=int(os.environ["DIGITS_WORKERS"]), logging={"access": {"enabled": False}})
class Service:
    """The model behind one address."""

    def __init__(self) -> None:
        self.digits = Digits()

    @bentoml.api(route="/predict")
    def predict(self, image: Picture, /) -> dict[str, Any]:
        """Answer one picture."""
        try:
            return self.digits.answer([pixels(image)])[0]
        except BadImage as error:
            raise bentoml.exceptions.InvalidArgument(str(error)) from None

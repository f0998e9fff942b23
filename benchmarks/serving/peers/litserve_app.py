"""LitServe with batches; it takes JSON, so pictures come in base64."""

import base64
import os
from typing import Any

import litserve
import numpy as np
from digits import BadImage, Digits, decode
from fastapi import HTTPException


class Api(litserve.LitAPI):
    """The model behind LitServe's four hooks."""

    def setup(self, device: str) -> None:
        """Load the model into a worker."""
        del device
        self.digits = Digits()

    def decode_request(
        self, request
    ) -> np.ndarray:  # LitServe reads a type here, were there one, as the body's
        """One request's picture."""
        try:
            return decode(base64.b64decode(request["image"]))
        except BadImage as error:
            raise HTTPException(400, str(error)) from None

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """What `predict` is given."""
        return inputs

    def predict(self, inputs: list[np.ndarray]) -> list[dict[str, Any]]:
        """Answer a batch."""
        return self.digits.answer(inputs)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer a request."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """The answer itself."""
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.001)
    workers = int(os.environ["DIGITS_WORKERS"])
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(
        host="127.0.0.1", port=int(os.environ["DIGITS_PORT"]), num_api_servers=1,
        log_level="warning", access_log=False, generate_client_file=False,
    )  # fmt: skip

"""MLServer: a runtime of our own, adaptive batching on, asked by the Open Inference Protocol with base64."""

from __future__ import annotations

import base64
import json

from digits import BadImage, Digits, decode
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Runtime(MLModel):
    """The model behind MLServer's two hooks."""

    async def load(self) -> bool:
        """Load the model into a worker."""
        self.digits = Digits()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch: an element of the only input is a picture in base64."""
        try:
            images = [decode(base64.b64decode(item)) for item in payload.inputs[0].data]
        except BadImage as error:
            raise InferenceError(str(error)) from None
        answers = [json.dumps(answer) for answer in self.digits.answer(images)]
        output = ResponseOutput(name="answer", shape=[len(answers), 1], datatype="BYTES", data=answers)
        return InferenceResponse(model_name=self.name, outputs=[output])

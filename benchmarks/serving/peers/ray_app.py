"""Ray Serve: replicas of one deployment, batches on; the body is the picture."""

from __future__ import annotations

import os
from typing import Any

import ray
from digits import BadImage, Digits, decode
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

WORKERS = int(os.environ["DIGITS_WORKERS"])


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.5})
class Deployment:
    """The model behind one address."""

    def __init__(self) -> None:
        self.digits = Digits()

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.001)
    async def answer(self, images: list[Any]) -> list[dict[str, Any]]:
        """Answer a batch."""
        return self.digits.answer(images)

    async def __call__(self, request: Request) -> Response:
        """Answer one picture."""
        try:
            image = decode(await request.body())
        except BadImage as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(await self.answer(image))


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["DIGITS_PORT"])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Deployment.bind(), blocking=True)

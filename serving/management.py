"""TorchServe's management side, typed: what runs, and how it is changed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError

from serving.client import plain_http
from serving.endpoint import RequestError, read_endpoint, read_token
from serving.settings import ServerError, ServerSettings

READY = "READY"


class ManagementError(ServerError):
    """The management side refused, or did not answer; `status` is its HTTP status, None where it was not reached."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class WorkerState(BaseModel):
    """One worker process of a version."""

    id: str
    status: str = Field(description="READY once it holds the model.")
    pid: int = Field(-1, description="Its process id; -1 before it has one.")


class _Queue(BaseModel):
    pending: int = Field(0, alias="pendingRequests")
    capacity: int = Field(0, alias="remainingCapacity")


class Registered(BaseModel):
    """A version that TorchServe knows, ready or not."""

    name: str = Field(alias="modelName")
    version: str = Field(alias="modelVersion")
    min_workers: int = Field(0, alias="minWorkers")
    workers: list[WorkerState] = []
    queue: _Queue = Field(_Queue(), alias="jobQueueStatus")  # type: ignore[call-arg]

    @property
    def ready(self) -> int:
        """How many workers hold the model."""
        return sum(worker.status == READY for worker in self.workers)

    @property
    def pending(self) -> int:
        """Requests that wait for a worker; those that a worker holds are not among them."""
        return self.queue.pending


class Management:
    """The management side of the server whose state folder this is; its token is read anew for each call.

    Raises:
        RequestError: the folder describes no server.
    """

    def __init__(self, folder: Path, timeout: float = 30.0) -> None:
        self._folder = folder
        url = read_endpoint(folder).management_url
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, verify=not plain_http(url))

    def names(self) -> list[str]:
        """Every model's name."""
        found, page = [], ""
        while True:
            answer = self._ask(
                "GET", "/models", {"limit": "100", **({"next_page_token": page} if page else {})}
            )
            found += [str(each.get("modelName")) for each in answer.get("models", [])]
            page = str(answer.get("nextPageToken") or "")
            if not page:
                return found

    def versions(self, name: str) -> dict[str, Registered]:
        """Every version of a model; none where the model is not known."""
        return {each.version: each for each in self._described(f"/models/{name}/all")}

    def version(self, name: str, version: str) -> Registered | None:
        """One version of a model; None where it is not known."""
        return next(iter(self._described(f"/models/{name}/{version}")), None)

    def default(self, name: str) -> str | None:
        """The version that answers where none is named; None where the model is not known."""
        return next((each.version for each in self._described(f"/models/{name}")), None)

    def register(self, archive: str, settings: ServerSettings) -> None:
        """Begin to load an archive, by its name in the model store; returns before its workers are ready.

        The first version of a model is its default, and every other is not.
        """
        asked = {
            "url": archive,
            "initial_workers": settings.workers,
            "batch_size": settings.batch_size,
            "max_batch_delay": settings.batch_delay,
            "response_timeout": settings.response_timeout,
            "startup_timeout": settings.start_timeout,
            "synchronous": "false",  # else an event loop waits, and with it every request that it carries
        }
        self._ask("POST", "/models", asked)

    def scale(self, name: str, version: str, workers: int) -> None:
        """Begin to change how many workers a version has."""
        self._ask("PUT", f"/models/{name}/{version}", {"min_worker": workers, "max_worker": workers})

    def set_default(self, name: str, version: str) -> None:
        """Let requests that name no version go to this one from now on."""
        self._ask("PUT", f"/models/{name}/{version}/set-default")

    def unregister(self, name: str, version: str) -> None:
        """End a version's workers; what waits in its queue is stranded for ever, so drain it first."""
        self._ask("DELETE", f"/models/{name}/{version}")

    def _described(self, path: str) -> list[Registered]:
        try:
            answer = self._ask("GET", path)
        except ManagementError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return []
            raise
        try:
            return [Registered.model_validate(each) for each in answer]
        except ValidationError as error:
            raise ManagementError(
                f"the management side says of {path} what is not understood: {error}"
            ) from None

    def _ask(self, method: str, path: str, asked: dict[str, Any] | None = None) -> Any:
        try:
            headers = {"Authorization": f"Bearer {read_token(self._folder, 'management')}"}
            answer = self._http.request(method, path, params=asked, headers=headers)
            content = answer.json()
        except RequestError as error:
            raise ManagementError(str(error)) from None
        except httpx.TimeoutException:
            raise ManagementError(
                f"no answer from {self._http.base_url} to {method} {path} in time"
            ) from None
        except httpx.HTTPError as error:
            raise ManagementError(f"cannot reach {self._http.base_url}: {error}") from None
        except ValueError:
            raise ManagementError(
                f"{method} {path}: {answer.status_code}, no JSON", answer.status_code
            ) from None
        if not answer.is_success:
            reason = content.get("message") if isinstance(content, dict) else None
            raise ManagementError(f"{method} {path}: {answer.status_code}: {reason}", answer.status_code)
        return content

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def __enter__(self) -> Management:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

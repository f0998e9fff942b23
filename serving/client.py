"""Asks a running server for predictions, and finds the one that this project started on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import BaseModel, Field, ValidationError

from serving.inputs.spec import read_json

STATE_FILE = "server.json"
Kind = Literal["torchserve", "onnx"]
KEY_FILE = "key_file.json"  # TorchServe writes it into its working folder, with fresh tokens at every start


class RequestError(ValueError):
    """A request that got no prediction: the server's own reason, and its HTTP status where there is one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Endpoint(BaseModel, extra="forbid", frozen=True):
    """A server as its state folder describes it; tokens stay in TorchServe's own key file."""

    kind: Kind = Field("torchserve", description="Which server it is, a key of `serving.servers.SERVERS`.")
    pid: int = Field(description="Process id of Java, also its session's.")
    created: float = Field(description="When that process began, in seconds since 1970; tells a reused id.")
    name: str = Field(description="The model's name.")
    version: str = Field(description="The model's version, a digest of its bundle.")
    url: str = Field(description="Address for predictions.")
    management_url: str = Field(description="Address for management, with a token of its own.")
    metrics_url: str = Field(description="Address of the Prometheus metrics; it takes no token.")
    scratch: Path = Field(description="Private temporary folder: unpacked model, worker sockets.")


def read_endpoint(folder: Path) -> Endpoint:
    """The server that a state folder describes, running or not.

    Raises:
        RequestError: no server was started from this folder, or its record cannot be read.
    """
    try:
        return Endpoint.model_validate_json((folder / STATE_FILE).read_text())
    except FileNotFoundError:
        raise RequestError(f"no server was started here (there is no {folder / STATE_FILE})") from None
    except (OSError, ValidationError) as error:
        raise RequestError(f"{folder / STATE_FILE} cannot be read: {error}") from None


def read_token(folder: Path, kind: Literal["inference", "management"] = "inference") -> str:
    """The current token of the server whose state folder this is.

    Raises:
        RequestError: there is no key file (the server is down), or it cannot be read.
    """
    try:
        return str(read_json(folder / KEY_FILE)[kind]["key"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"no {kind} token in {folder / KEY_FILE}: is the server up? ({error})") from None


class Client:
    """A pool of connections to one model on one server; threads may share it.

    Args:
        url: the server's address, such as `http://127.0.0.1:8080`.
        token: its inference token.
        name: the model's name.
        timeout: seconds to wait for one answer.
        connections: the most connections to hold open at once.
    """

    def __init__(self, url: str, token: str, name: str, timeout: float = 15.0, connections: int = 64) -> None:
        self._path = f"/predictions/{name}"
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,  # a proxy from the environment must see neither token nor loopback requests
        )

    @classmethod
    def local(cls, folder: Path, timeout: float = 15.0) -> Client:
        """A client of the server whose state folder this is.

        Raises:
            RequestError: the folder describes no server, or the server is down.
        """
        endpoint = read_endpoint(folder)
        return cls(endpoint.url, read_token(folder), endpoint.name, timeout)

    def predict(self, body: bytes, content_type: str = "application/octet-stream") -> dict[str, Any]:
        """Send one raw body (PNG, JPEG or JSON bytes) and give the answer.

        The answer holds `label`, `probabilities`, `model_version` and `request_id`. The body itself tells
        images from JSON; of content types only a form's matters, which TorchServe takes apart.

        Raises:
            RequestError: the server refused it, failed, or did not answer in time.
        """
        try:
            response = self._http.post(self._path, content=body, headers={"Content-Type": content_type})
        except httpx.TimeoutException:
            raise RequestError(f"no answer from {self._http.base_url} in time") from None
        except httpx.HTTPError as error:
            raise RequestError(f"cannot reach {self._http.base_url}: {error}") from None
        if response.status_code != httpx.codes.OK:
            raise RequestError(_reason(response), response.status_code)
        answer: dict[str, Any] = response.json()
        return answer

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reason(response: httpx.Response) -> str:
    """Our handler says `error`, TorchServe itself `message`, and netty only the status line."""
    try:
        content = response.json()
    except ValueError:
        content = None
    said = (content.get("error") or content.get("message")) if isinstance(content, dict) else None
    return f"{response.status_code}: {said or response.reason_phrase or 'no reason given'}"

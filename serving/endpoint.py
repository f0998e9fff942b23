"""The server that this project started on this machine: its record, its tokens, and why a request failed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from serving.inputs.spec import read_json

STATE_FILE = "server.json"
Kind = Literal["torchserve", "onnx"]
SUPERVISOR_FILE = "supervisor.json"
KEY_FILE = "key_file.json"  # TorchServe writes it into its working folder, with fresh tokens at every start


class RequestError(ValueError):
    """A request that got no prediction: the server's own reason.

    Args:
        message: what is told.
        status: the HTTP status, where there was an answer.
        reached: False where no server listens at the address.
        passing: asking again may help.
        after: seconds that the server asked to wait.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        reached: bool = True,
        passing: bool = False,
        after: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reached = reached
        self.passing = passing
        self.after = after


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


def kept_up(folder: Path) -> bool:
    """Whether a process lives that starts, or restarts, the server of a state folder."""
    for file in (SUPERVISOR_FILE, STATE_FILE):
        try:
            os.kill(int(read_json(folder / file)["pid"]), 0)
        except (OSError, KeyError, TypeError, ValueError):
            continue
        return True
    return False

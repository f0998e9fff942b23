"""What a worker must know of the server's settings: a file in the state folder, as every server has one."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

OPTIONS = "worker.json"


class Options(BaseModel, frozen=True):
    """One worker's share of the server's limits."""

    requests_per_second: float = Field(0.0, ge=0, description="More get a 429; 0 is no limit.")
    response_seconds: float = Field(
        10.0, gt=0, description="A batch that takes longer costs the worker its life."
    )
    log_bytes: int = Field(
        256 * 1024**2, ge=0, description="Size of the request log of all workers; 0: none."
    )


def read_options(state: Path | None) -> Options:
    """The options in a state folder; defaults where there are none."""
    try:
        return Options.model_validate_json((state / OPTIONS).read_text()) if state else Options(log_bytes=0)
    except FileNotFoundError:
        return Options()
    except (OSError, ValidationError) as error:
        raise ValueError(f"{OPTIONS} of the state folder {state} cannot be read: {error}") from None

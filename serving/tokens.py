"""Changes a running server's tokens without a restart."""

from __future__ import annotations

from pathlib import Path

import httpx

from serving.endpoint import KEY_FILE, RequestError, read_endpoint
from serving.inputs.spec import read_json

MINUTES = 525_600


def rotate(folder: Path, minutes: int = MINUTES) -> None:
    """Make new tokens for the server of a state folder; the old ones end at once.

    Clients that read the key file anew, as ours do when they are refused, go on; all others need the new token.

    Args:
        folder: state folder.
        minutes: life of the new tokens where the server does not know it itself.

    Raises:
        RequestError: no server, or it refuses.
    """
    endpoint = read_endpoint(folder)
    if endpoint.kind == "onnx":
        from serving.asgi.keys import write_keys

        write_keys(folder, minutes)
        return
    for kind in ("inference", "management"):
        try:
            key = str(read_json(folder / KEY_FILE)["API"]["key"])
            answer = httpx.get(
                f"{endpoint.management_url}/token",
                params={"type": kind},
                headers={"Authorization": f"Bearer {key}"},
                timeout=10,
                trust_env=False,
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{folder / KEY_FILE} cannot be read: is the server up? ({error})") from None
        except httpx.HTTPError as error:
            raise RequestError(f"cannot reach {endpoint.management_url}: {error}") from None
        if not answer.is_success:
            raise RequestError(
                f"the server keeps its {kind} token: {answer.text.strip()}", answer.status_code
            )

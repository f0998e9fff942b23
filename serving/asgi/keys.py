"""The tokens of the second server, in the file that TorchServe would write, and the check of a request's token."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serving.endpoint import KEY_FILE
from serving.inputs.spec import read_json

EXPIRES = "expiration time"


def write_keys(folder: Path, minutes: int) -> None:
    """Make new tokens; workers take them from the next request on, and the old ones end."""
    until = datetime.now(UTC) + timedelta(minutes=min(minutes, 525_600 * 100))
    content = {
        kind: {"key": secrets.token_urlsafe(24), EXPIRES: until.isoformat()}
        for kind in ("management", "inference")
    }
    fresh = folder / f".{KEY_FILE}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    fresh.replace(folder / KEY_FILE)


class Keys:
    """The inference token in force, read anew whenever its file changes: rotated without a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp, self._expected, self._until = (0, 0), b"", datetime.min.replace(tzinfo=UTC)

    def fits(self, given: bytes) -> bool:
        """True for `Bearer <token>` with the token in force; where the file cannot be read, nobody has one."""
        try:
            found = self.path.stat()
            if (stamp := (found.st_mtime_ns, found.st_ino)) != self._stamp:
                key = read_json(self.path)["inference"]
                self._expected, self._stamp = f"Bearer {key['key']}".encode(), stamp
                self._until = datetime.fromisoformat(key[EXPIRES])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return hmac.compare_digest(given, self._expected) and datetime.now(UTC) < self._until

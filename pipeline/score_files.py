"""Files of one request each: one, or those below a folder as a listing has them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from pipeline.core.params import UserError
from pipeline.score_inputs import LinesReader, Part, Taken
from pipeline.score_rows import Mark, lines_from

FILES = 512  # in a part


class FilesReader(LinesReader):
    """Files of one request each, below a folder, as `listing` has them; or one file."""

    key = "file"
    size = FILES

    def parts(self) -> Iterator[Part]:
        """So many files each."""
        if not self.source.listing:
            yield Part(0, 1, 1, (0, 1), 1)
            return
        yield from super().parts()

    def lines(self, mark: Mark) -> Iterator[tuple[Mark, bytes]]:
        """The lines of the listing."""
        return lines_from(Path(self.source.listing), mark)

    def read(self, part: Part, size: int) -> Iterator[Taken]:
        """The files' bytes, decoded."""
        names: Iterator[str] = iter([self.name])
        root = self.path.parent
        if self.source.listing:
            root = self.path
            names = (json.loads(line)[0] for _, line in islice(self.lines(part.mark), part.rows))
        while some := list(islice(names, size)):
            shown = [os.fsencode(name).decode("utf-8", "replace") for name in some]
            yield self._decoded(shown, [(root / name).read_bytes for name in some], shown)


def listed(root: Path, suffixes: Sequence[str], listing: Path) -> tuple[int, int, str]:
    """Write the files below a folder, sorted, with sizes and times: how many, how many are of no use, the digest."""
    used, other, digest = 0, 0, hashlib.sha256()
    with listing.open("w", encoding="ascii") as out:
        for folder, folders, files in os.walk(root, onerror=_raised):
            folders[:] = sorted(name for name in folders if name[0] != ".")
            for name in sorted(name for name in files if name[0] != "."):
                if not name.lower().endswith(tuple(suffixes)):
                    other += 1
                    continue
                path = Path(folder, name)
                try:
                    about = [path.stat().st_size, path.stat().st_mtime_ns]
                except OSError:  # told when it is read
                    about = []
                line = json.dumps([str(path.relative_to(root)), *about]) + "\n"
                digest.update(line.encode())
                out.write(line)
                used += 1
    return used, other, digest.hexdigest()


def _raised(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None

"""A PostgreSQL of the tests' own: Debian's binaries, a free port of loopback, a folder that goes with the test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.stores import free_port

USER = "postgres"  # the server refuses to run as root
PASSWORD = "se:cret"
QUICK = {"fsync": "off", "max_connections": "20", "shared_buffers": "16MB"}


def binary(name: str) -> str | None:
    """A program of PostgreSQL's, which Debian keeps off the path."""
    placed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(placed[-1]) if placed else shutil.which(name)


class Postgres:
    """A server with one database for each name asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        owner = pwd.getpwnam(USER) if os.geteuid() == 0 else None
        self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self.name = owner.pw_name if owner else pwd.getpwuid(os.geteuid()).pw_name
        self._run("initdb", "-D", "data", "-A", "scram-sha-256", "-U", "me", "-N", "--pwfile=word")

    def _run(self, program: str, *words: str) -> None:
        (self.folder / "word").write_text(PASSWORD)
        found = binary(program)
        assert found is not None
        done = subprocess.run(
            [found, *words], cwd=self.folder, env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            capture_output=True, text=True, timeout=60, check=False, **self._as,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            **QUICK,
        }
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self._run("pg_ctl", "-D", "data", "-w", "-t", "30", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """Stop as a crash would: connections break."""
        self._run("pg_ctl", "-D", "data", "-w", "-t", "30", "-m", "immediate", "stop")

    def address(self, database: str) -> str:
        """The URL of a database, which is made."""
        import pg8000.native

        with pg8000.native.Connection("me", "127.0.0.1", "postgres", self.port, PASSWORD) as connection:
            if not connection.run("SELECT 1 FROM pg_database WHERE datname = :name", name=database):
                connection.run(f"CREATE DATABASE {database}")
        return f"postgresql+pg8000://me:{quote(PASSWORD)}@127.0.0.1:{self.port}/{database}"


@contextmanager
def running() -> Iterator[Postgres]:
    """A server for a while.

    Skips the test where no PostgreSQL is installed.
    """
    if binary("initdb") is None:
        pytest.skip("no PostgreSQL is installed here (Debian: apt-get install postgresql)")
    if os.geteuid() == 0 and USER not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip(f"tests run as root, and there is no user '{USER}' for PostgreSQL to run as")
    pytest.importorskip("pg8000")
    folder = Path(tempfile.mkdtemp(prefix="fl-pg-", dir="/tmp"))  # where another user reaches it
    folder.chmod(0o755)
    server = Postgres(folder)
    server.start()
    try:
        yield server
    finally:
        if (folder / "data/postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder)

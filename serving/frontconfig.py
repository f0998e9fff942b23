"""What Caddy is told, generated from the section `server`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.settings import ServerSettings

CONFIG = "front.json"
ACCESS, LOG = "access.log", "front.log"
ID = "{http.request.header.X-Request-Id}"
OWN_ID = "^[A-Za-z0-9._-]{1,128}$"  # as `serving.handler` takes it
NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
# What is passed on, and by which methods; Caddy matches the path as it is after '..' and '//' are resolved.
FORWARDED = {
    f"^/(predictions|explanations)/{NAME}(/{NAME})?$": ["POST"],
    f"^/v2(/health/(live|ready)|/models/{NAME}(/versions/{NAME})?(/ready|/infer)?)?/?$": ["GET", "POST"],
}
RETRY = "3s"  # that a request waits for a server which is being started again
REASONS = {
    404: "there is no such address; ask /predictions/<model>",
    405: "predictions are asked for by POST",
    408: "the request did not come in time",
    413: "the request body has more than {limit} bytes",
    502: "the server is not there or broke the connection; it may be starting again",
    503: "the server is not ready",
    504: "the server did not answer in time",
}


def caddy_config(folder: Path, scratch: Path, settings: ServerSettings) -> dict[str, Any]:
    """Caddy's configuration: one server, what it passes on, its limits, and what it answers itself."""
    tls = bool(settings.tls_certificate)
    server: dict[str, Any] = {
        "listen": [_address(settings.front_host, settings.front_port)],
        "protocols": ["h1", "h2"] if tls else ["h1"],
        "automatic_https": {"disable": True},
        "max_header_bytes": 16_384,
        "read_header_timeout": f"{settings.front_timeout}s",
        "read_timeout": f"{settings.front_timeout}s",
        "write_timeout": f"{2 * settings.front_timeout + settings.response_timeout + 10}s",
        "idle_timeout": f"{4 * settings.front_timeout}s",
        "logs": {"default_logger_name": "front"},
        "routes": _routes(settings),
        "errors": {"routes": _errors(settings)},
    }
    apps: dict[str, Any] = {"http": {"grace_period": "4s", "servers": {"front": server}}}
    if tls:
        server["tls_connection_policies"] = [{"protocol_min": "tls1.2"}]
        pair = {"certificate": str(settings.tls_certificate), "key": str(settings.tls_key)}
        apps["tls"] = {"certificates": {"load_files": [pair]}}
    return {
        # Only who may enter the scratch folder can ask it to read its configuration again.
        "admin": {"listen": f"unix/{scratch / 'admin.sock'}|0600", "config": {"persist": False}},
        "storage": {"module": "file_system", "root": str(scratch / "storage")},
        "logging": {"logs": _logs(folder)},
        "apps": apps,
    }


def _routes(settings: ServerSettings) -> list[dict[str, Any]]:
    own = {"header_regexp": {"X-Request-Id": {"pattern": OWN_ID}}}
    named = {"handler": "headers", "request": {"set": {"X-Request-Id": [ID]}}}  # several become one
    fresh = {"handler": "headers", "request": {"set": {"X-Request-Id": ["{http.request.uuid}"]}}}
    told = {
        "handler": "headers",
        "response": {"deferred": True, "set": {"X-Request-Id": [ID]}, "delete": ["Server"]},
    }
    # Otherwise Go answers a client that stopped in the middle of a body only once the rest has come.
    close = {"set": {"Connection": ["close"]}, "require": {"status_code": [408, 413, 499, 502, 504]}}
    ended = {"handler": "headers", "response": {"deferred": True, **close}}
    noted = {"handler": "log_append", "key": "request_id", "value": ID}
    # A body without a type is dropped by TorchServe.
    typed = {"handler": "headers", "request": {"set": {"Content-Type": ["application/octet-stream"]}}}
    ready = [{"handler": "rewrite", "uri": "/ready"}, _proxy(settings.prometheus_port, settings)]
    ping = {"path": ["/ping"], "method": ["GET", "HEAD"]}
    routes: list[dict[str, Any]] = [
        {"match": [{"header": {"X-Request-Id": ["*"]}}], "handle": [named]},
        {"match": [{"not": [own]}], "handle": [fresh]},
        {"handle": [told, ended, noted]},
        {"match": [ping], "handle": ready, "terminal": True},
        {"match": [{"not": [{"header": {"Content-Type": ["*"]}}], "method": ["POST"]}], "handle": [typed]},
    ]
    limit = {"handler": "request_body", "max_size": settings.max_request_bytes}
    for pattern, methods in FORWARDED.items():
        path = {"path_regexp": {"name": "asked", "pattern": pattern}}
        cleaned = {"handler": "rewrite", "uri": "{http.regexp.asked.0}"}
        asked = [limit, cleaned, _proxy(settings.inference_port, settings)]
        routes.append({"match": [{**path, "method": methods}], "handle": asked, "terminal": True})
        routes.append({"match": [path], "handle": [_error(405)], "terminal": True})
    return [*routes, {"handle": [_error(404)]}]


def _proxy(port: int, settings: ServerSettings) -> dict[str, Any]:
    """Passes a request on once all of it is here, so that a slow client holds no worker."""
    return {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{port}"}],
        "request_buffers": settings.max_request_bytes + 1,
        "load_balancing": {"try_duration": RETRY, "try_interval": "100ms"},
        "transport": {
            "protocol": "http",
            "dial_timeout": "2s",
            "response_header_timeout": f"{settings.response_timeout + 5}s",
            "keep_alive": {"idle_timeout": "30s", "max_idle_conns_per_host": 256},
            "compression": False,
        },
    }


def _error(status: int) -> dict[str, Any]:
    return {"handler": "error", "status_code": status}


def _errors(settings: ServerSettings) -> list[dict[str, Any]]:
    """One answer in JSON for each failure."""

    def answer(reason: str, status: str) -> list[dict[str, Any]]:
        body = json.dumps({"error": reason, "request_id": ID})
        headers = {"Content-Type": ["application/json"], "X-Request-Id": [ID], "Retry-After": ["1"]}
        if status not in ("502", "503", "504"):
            del headers["Retry-After"]
        return [{"handler": "static_response", "status_code": status, "headers": headers, "body": body}]

    known = [
        {
            "match": [{"expression": f"{{http.error.status_code}} == {status}"}],
            "handle": answer(reason.format(limit=settings.max_request_bytes), str(status)),
            "terminal": True,
        }
        for status, reason in REASONS.items()
    ]
    return [*known, {"handle": answer("{http.error.status_text}", "{http.error.status_code}")}]


def _logs(folder: Path) -> dict[str, Any]:
    """A line of JSON for each request, without tokens; and the front's own troubles."""

    def file(name: str) -> dict[str, Any]:
        return {
            "output": "file",
            "filename": str(folder / name),
            "roll_size_mb": 20,
            "roll_keep": 5,
            "mode": "0600",
        }

    secret = ("Authorization", "Cookie", "Proxy-Authorization", "Token")
    left_out = {f"request>headers>{name}": {"filter": "delete"} for name in secret}
    left_out["request>uri"] = {"filter": "regexp", "regexp": r"\?.*", "value": "?..."}
    encoder = {"format": "filter", "wrap": {"format": "json"}, "fields": left_out}
    return {
        "default": {"writer": file(LOG), "level": "WARN", "exclude": ["http.log.access.front"]},
        "access": {"writer": file(ACCESS), "encoder": encoder, "include": ["http.log.access.front"]},
    }


def _address(host: str, port: int) -> str:
    return f"tcp/[{host}]:{port}" if ":" in host else f"tcp/{host}:{port}"

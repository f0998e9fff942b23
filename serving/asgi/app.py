"""The addresses of the second server: HTTP becomes a `Request` for the worker, its `Reply` HTTP again."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import re
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request as Http
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.asgi.body import Refused, body_of, read_body
from serving.asgi.keys import Keys
from serving.asgi.models import Models
from serving.metrics import CONTENT_TYPE, page
from serving.openapi import document
from serving.settings import ServerSettings
from serving.worker.messages import JSON, Reply, Request, answered
from serving.worker.v2 import model_metadata, server_metadata

log = logging.getLogger(__name__)
OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
OPEN = ("/metrics", "/ping")  # what the metrics port answers, without a token
Handler = Callable[[Http], Coroutine[Any, Any, Response]]


class Guard:
    """Lets in who has the token; the metrics port, which is for probes and Prometheus, needs none."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics_port: int) -> None:
        self.app, self.keys, self.metrics_port = app, keys, metrics_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401, or 404 on the metrics port, before a byte of the body is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = scope["request_id"] = id_of(headers)
        if scope["server"][1] == self.metrics_port:
            if scope["path"] not in OPEN:
                await told(404, f"only {' and '.join(OPEN)} are here", request_id)(scope, receive, send)
                return
        elif not self.keys.fits(headers.get("authorization", "").encode("latin-1")):
            reason = "Token Authorization failed: send 'Authorization: Bearer <inference token>'"
            await told(401, reason, request_id, {"www-authenticate": "Bearer"})(scope, receive, send)
            return
        await self.app(scope, receive, send)


def id_of(headers: Headers) -> str:
    """The id that the client gave the request, or a new one."""
    own = headers.get("x-request-id", "")
    return own if OWN_ID.fullmatch(own) else str(uuid.uuid4())


def told(status: int, reason: str, request_id: str, headers: dict[str, str] | None = None) -> Response:
    """An answer that says why there is none, in the words of the worker's."""
    content = json.dumps({"error": reason, "request_id": request_id})
    return Response(content, status, {**(headers or {}), "x-request-id": request_id}, JSON)


def response(reply: Reply, request_id: str) -> Response:
    """A worker's reply as HTTP."""
    return Response(
        reply.body, reply.status, {**reply.headers, "x-request-id": request_id}, reply.content_type
    )


class App:
    """What answers at each address.

    Args:
        models: what is loaded.
        keys: who may ask.
        settings: limits.
        ready: true while the server takes requests.
    """

    def __init__(
        self, models: Models, keys: Keys, settings: ServerSettings, ready: Callable[[], bool]
    ) -> None:
        self.models, self.settings, self.ready = models, settings, ready
        routes = [
            Route("/ping", self._ping, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
        ]
        for place, kind in (("predictions", "predict"), ("explanations", "explain")):
            short = f"/v1/models/{{name}}:{kind}"  # KServe's first protocol
            for path in (f"/{place}/{{name}}", f"/{place}/{{name}}/{{version}}", short):
                routes.append(Route(path, self._asking(kind), methods=["POST"]))
        routes += self._open_inference()
        handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _no_route, Exception: _failed}
        app = Starlette(routes=routes, exception_handlers=handlers)
        self.asgi: ASGIApp = Guard(app, keys, settings.metrics_port)

    def _open_inference(self) -> list[Route]:
        """The addresses of the Open Inference Protocol, which is KServe's v2."""
        told = server_metadata()
        routes = [
            Route("/v2", self._saying(lambda name, version: told), methods=["GET"]),
            Route("/v2/health/live", self._saying(lambda name, version: {"live": True}), methods=["GET"]),
            Route("/v2/health/ready", self._saying(self._all_ready), methods=["GET"]),
        ]
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(path, self._saying(self._model), methods=["GET"]),
                Route(f"{path}/ready", self._saying(self._model_ready), methods=["GET"]),
                Route(f"{path}/infer", self._asking("infer"), methods=["POST"]),
            ]
        return routes

    def _saying(self, say: Callable[[str, str | None], dict[str, Any]]) -> Handler:
        async def answer(http: Http) -> Response:
            content = say(http.path_params.get("name", ""), http.path_params.get("version"))
            return response(answered(content), http.scope["request_id"])

        return answer

    def _model(self, name: str, version: str | None) -> dict[str, Any]:
        spec = self.models.find(name, version).worker.predictor.spec
        return model_metadata(spec, name, list(self.models.described()[name]["versions"]))

    def _model_ready(self, name: str, version: str | None) -> dict[str, Any]:
        self.models.find(name, version)
        return {"name": name, **self._all_ready(name, version)}

    def _all_ready(self, name: str, version: str | None) -> dict[str, Any]:
        if not self.ready() or not self.models.described():
            raise Refused(503, "not ready: a model is stuck, or none is loaded")
        return {"ready": True}

    def _asking(self, kind: str) -> Handler:
        async def ask(http: Http) -> Response:
            name, version = http.path_params["name"], http.path_params.get("version")
            self.models.find(name, version)  # before the body is read
            if kind == "explain" and importlib.util.find_spec("captum") is None:
                raise Refused(501, "this server cannot explain: the package 'captum' is not installed")
            raw = await read_body(http, self.settings.max_request_bytes, self.settings.client_timeout)
            body = body_of(raw, http.headers.get("content-type", ""))
            request = Request(http.scope["request_id"], body, dict(http.headers), kind)
            return response(await self.models.find(name, version).ask(request), request.id)

        return ask

    async def _ping(self, http: Http) -> Response:
        self._all_ready("", None)
        return response(answered({"status": "Healthy"}), http.scope["request_id"])

    async def _metrics(self, http: Http) -> Response:
        assert self.models.state is not None
        return Response(await asyncio.to_thread(page, self.models.state), media_type=CONTENT_TYPE)

    async def _openapi(self, http: Http) -> Response:
        specs = self.models.specs()
        return response(answered(document(specs)), http.scope["request_id"])


async def _refused(http: Http, error: Refused) -> Response:
    return told(error.status, str(error), http.scope["request_id"], error.headers)


async def _no_route(http: Http, error: HTTPException) -> Response:
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    allowed = f": {headers['allow']} is allowed" if "allow" in headers else ""
    reason = f"{error.detail}: {http.method} {http.url.path[:200]}{allowed}"
    return told(error.status_code, reason, http.scope["request_id"], headers)


async def _failed(http: Http, error: Exception) -> Response:
    log.error("%s %s failed", http.method, http.url.path, exc_info=error)
    return told(500, "the server failed; its log says why", http.scope["request_id"])

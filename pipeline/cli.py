"""The command `fairlead`: ask the endpoint, run the server, see where things are."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pipeline.commands import asking, canary, describing, interfaces, project, score, serve, tracing
from pipeline.commands.common import group

COMMANDS: tuple[Callable[..., None], ...] = (
    asking.predict,
    asking.explain,
    score.score,
    tracing.trace,
    tracing.replay,
    describing.openapi,
    describing.manifests,
    project.ui,
    project.dashboard,
    project.check,
    project.recipe,
    project.summary,
)  # as `fairlead NAME`
SERVING: tuple[Callable[..., None], ...] = (
    canary.canary,
    canary.feedback,
    interfaces.grpc,
)  # as `fairlead serve NAME`

app = group("Fairlead: from data to a tuned, judged, tracked, certified and served model.")
app.add_typer(serve.app, name="serve")
for command in COMMANDS:
    app.command()(command)
for command in SERVING:
    serve.app.command()(command)

if __name__ == "__main__":
    sys.exit(app())

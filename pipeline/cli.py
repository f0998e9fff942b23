"""The command `fairlead`: ask the endpoint, run the server, see where things are."""

from __future__ import annotations

import sys

from pipeline.commands import asking, canary, interfaces, project, score, serve, tracing
from pipeline.commands.common import group

COMMANDS = (
    asking.predict,
    asking.explain,
    score.score,
    tracing.trace,
    tracing.replay,
    project.ui,
    project.check,
    project.recipe,
    project.summary,
)  # as `fairlead NAME`
SERVING = (canary.canary, canary.feedback, interfaces.grpc)  # as `fairlead serve NAME`

app = group("Fairlead: from data to a tuned, judged, tracked, certified and served model.")
app.add_typer(serve.app, name="serve")
for command in COMMANDS:
    app.command()(command)
for command in SERVING:
    serve.app.command()(command)

if __name__ == "__main__":
    sys.exit(app())

"""The command `fairlead`: ask the endpoint, run the server, see where things are."""

from __future__ import annotations

import sys

from pipeline.commands import asking, describing, project, score, serve
from pipeline.commands.common import group

app = group("Fairlead: from data to a tuned, judged, tracked, certified and served model.")
app.add_typer(serve.app, name="serve")
for command in (
    asking.predict, score.score, describing.openapi, describing.manifests, project.ui, project.check, project.recipe,
    project.summary,
):  # fmt: skip
    app.command()(command)

if __name__ == "__main__":
    sys.exit(app())

"""What others need to know to ask or to run the model: `fairlead openapi`, `manifests`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.common import fail
from pipeline.core.params import UserError

Bundle = Annotated[Path, typer.Option("--bundle", help="The model's bundle.")]
EXPORTED = Path("data/export/bundle")


def openapi(bundle: Bundle = EXPORTED) -> None:
    """Print the endpoint's description in OpenAPI 3.1, made from the exported bundle."""
    path = bundle / "openapi.json"
    try:
        typer.echo(path.read_text(), nl=False)
    except OSError as error:
        fail(f"{path} cannot be read ({error.strerror}): 'dvc repro export' writes it")


def manifests(
    out: Annotated[Path, typer.Option("--out", help="Folder for the manifests.")],
    storage: Annotated[
        str,
        typer.Option(
            "--storage", help="Where KServe fetches the archive from, such as s3://bucket/models/NAME."
        ),
    ] = "pvc://models/served",
    image: Annotated[
        str, typer.Option("--image", help="Beginning of the images' names; -onnx and -torchserve follow.")
    ] = "fairlead",
    tag: Annotated[str, typer.Option("--tag", help="Tag of the images.")] = "0.1.0",
    bundle: Bundle = EXPORTED,
) -> None:
    """Write KServe manifests for both servers, made from the exported bundle; see docs/servers.md."""
    from pipeline.core.params import section
    from pipeline.manifests import Service, write
    from serving.settings import ServerSettings

    try:
        service = Service(bundle, section("server", ServerSettings), storage, image, tag)
        for path in write(service, out):
            typer.echo(path)
    except (UserError, OSError) as error:
        fail(error)

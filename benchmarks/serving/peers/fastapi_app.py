"""FastAPI with ONNX Runtime, as simple as it gets: a model a process, answered in the event loop."""

from __future__ import annotations

from digits import BadImage, Digits, decode
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

app, model = FastAPI(), Digits()


@app.post("/predict")
async def predict(request: Request) -> JSONResponse:
    """Answer one picture; so short a computation is done quicker here than handed to a thread."""
    raw = await request.body()
    try:
        return JSONResponse(model.answer([decode(raw)])[0])
    except BadImage as error:
        return JSONResponse({"error": str(error)}, 400)

"""The second server: ONNX Runtime behind a small Starlette app under uvicorn, with TorchServe's addresses."""

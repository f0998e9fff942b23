"""Messages of gRPC services, made at run time from a few lines each: users need no generated code.

The lines are those of the services' own `.proto` files, so the bytes are the same. Needs the extra `grpc`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

FIELD = re.compile(r"(repeated )?(?:map<string, (\w+)>|([\w.]+)) (\w+) = (\d+)")

# TorchServe's proto/inference.proto
TORCHSERVE = "org.pytorch.serve.grpc.inference"
PREDICTIONS = {
    "PredictionsRequest": "string model_name = 1; string model_version = 2; map<string, bytes> input = 3",
    "PredictionResponse": "bytes prediction = 1",
}
# KServe's open_inference_grpc.proto
KSERVE = "inference"
TENSOR = "string name = 1; string datatype = 2; repeated int64 shape = 3"
FILLED = f"{TENSOR}; map<string, InferParameter> parameters = 4; InferTensorContents contents = 5"
INFERENCE = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live = 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready = 1",
    "ModelReadyRequest": "string name = 1; string version = 2",
    "ModelReadyResponse": "bool ready = 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name = 1; string version = 2; repeated string extensions = 3",
    "ModelMetadataRequest": "string name = 1; string version = 2",
    "TensorMetadata": TENSOR,
    "ModelMetadataResponse": "string name = 1; repeated string versions = 2; string platform = 3; "
    "repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5",
    "InferParameter": "bool bool_param = 1; int64 int64_param = 2; string string_param = 3",
    "InferTensorContents": "repeated bool bool_contents = 1; repeated int32 int_contents = 2; "
    "repeated int64 int64_contents = 3; repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; "
    "repeated float fp32_contents = 6; repeated double fp64_contents = 7; repeated bytes bytes_contents = 8",
    "InferInputTensor": FILLED,
    "InferRequestedOutputTensor": "string name = 1; map<string, InferParameter> parameters = 2",
    "ModelInferRequest": "string model_name = 1; string model_version = 2; string id = 3; "
    "map<string, InferParameter> parameters = 4; repeated InferInputTensor inputs = 5; "
    "repeated InferRequestedOutputTensor outputs = 6; repeated bytes raw_input_contents = 7",
    "InferOutputTensor": FILLED,
    "ModelInferResponse": "string model_name = 1; string model_version = 2; string id = 3; "
    "map<string, InferParameter> parameters = 4; repeated InferOutputTensor outputs = 5; "
    "repeated bytes raw_output_contents = 6",
}


@cache
def torchserve() -> SimpleNamespace:
    """The messages of TorchServe's own predictions."""
    return made(TORCHSERVE, PREDICTIONS)


@cache
def kserve() -> SimpleNamespace:
    """The messages of the Open Inference Protocol."""
    return made(KSERVE, INFERENCE)


def made(package: str, messages: Mapping[str, str]) -> SimpleNamespace:
    """Classes of messages by name, in a pool of their own, so that generated code of the same names may live beside."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.fairlead.proto", package=package, syntax="proto3"
    )
    for name, lines in messages.items():
        described = file.message_type.add(name=name)
        for line in filter(None, lines.split("; ")):
            _field(described, line, package)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return SimpleNamespace(
        **{
            name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
            for name in messages
        }
    )


def _field(described: Any, line: str, package: str) -> None:
    found = FIELD.fullmatch(line)
    assert found, line
    repeated, of, kind, name, number = found.groups()
    if of:
        entry = "".join(part.capitalize() for part in name.split("_")) + "Entry"
        inside = described.nested_type.add(name=entry)
        inside.options.map_entry = True
        _field(inside, "string key = 1", package)
        _field(inside, f"{of} value = 2", package)
        kind, repeated = f"{described.name}.{entry}", "repeated "
    field = described.field.add(name=name, number=int(number), label=3 if repeated else 1)
    plain = {
        "double": 1,
        "float": 2,
        "int64": 3,
        "uint64": 4,
        "int32": 5,
        "bool": 8,
        "string": 9,
        "bytes": 12,
    }
    plain["uint32"] = 13
    if kind in plain:
        field.type = plain[kind]
    else:
        field.type, field.type_name = 11, f".{package}.{kind}"

"""KServe manifests made from a bundle: an InferenceService for each server that can serve it, and who may reach it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.params import UserError
from serving.asgi.keys import write_keys
from serving.container import KEYS, SETTINGS
from serving.endpoint import KEY_FILE
from serving.inputs.spec import read_json
from serving.settings import ServerSettings

MOUNT = "/etc/fairlead"
PRIVATE = {
    "runAsNonRoot": True, "runAsUser": 1000, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
SCRATCH = {"name": "scratch", "emptyDir": {}}
Manifest = dict[str, Any]


class Service:
    """What every manifest of one bundle says.

    Args:
        bundle: the model's bundle.
        settings: the `server` section.
        storage: where KServe fetches the archive from.
        image: registry and beginning of the images' names; `-onnx:VERSION` and `-torchserve:VERSION` follow.
        tag: of the images.

    Raises:
        UserError: the bundle is not there, or its name cannot be a service's.
    """

    def __init__(self, bundle: Path, settings: ServerSettings, storage: str, image: str, tag: str) -> None:
        try:
            about = read_json(bundle / "bundle.json")
            self.model, self.version = str(about["name"]), str(about["version"])
            graph = (bundle / "model.onnx").stat().st_size
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{bundle} is no bundle ({error}): 'dvc repro export' makes one") from None
        self.name = re.sub("[^a-z0-9]+", "-", self.model.lower()).strip("-")
        if not re.fullmatch("[a-z][a-z0-9-]{0,40}", self.name):
            raise UserError(
                f"no service can be named after '{self.model}': it must begin with a letter, 41 at most"
            )
        self.settings, self.storage, self.image, self.tag = settings, storage, image, tag
        self.memory = settings.workers * (256 + 4 * graph // 2**20)  # MiB

    def manifest(self, predictor: Manifest) -> Manifest:
        """An InferenceService with this predictor, two copies of it, and no gap when it changes."""
        return {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": self.name,
                "labels": {"app.kubernetes.io/name": self.name, "app.kubernetes.io/version": self.version},
                "annotations": {
                    "serving.kserve.io/deploymentMode": "Standard",
                    "serving.kserve.io/enable-prometheus-scraping": "true",
                    "prometheus.kserve.io/port": str(self.settings.metrics_port),
                    "prometheus.kserve.io/path": "/metrics",
                },
            },
            "spec": {
                "predictor": {
                    "minReplicas": 2,
                    "maxReplicas": 4,
                    "deploymentStrategy": {
                        "type": "RollingUpdate",
                        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
                    },
                    "terminationGracePeriodSeconds": self.settings.response_timeout + 20,
                    "automountServiceAccountToken": False,
                    **predictor,
                }
            },
        }

    def container(self, server: str, memory: int, probe: Manifest) -> Manifest:
        """What both servers' containers share."""
        given = self.settings.model_dump_json(exclude_defaults=True, exclude={"java", "kind"})
        return {
            "name": "kserve-container",
            "image": f"{self.image}-{server}:{self.tag}",
            "args": [server, "/mnt/models"],
            "env": [{"name": SETTINGS, "value": given}, {"name": "TMPDIR", "value": "/tmp"}],  # noqa: S108
            "ports": [{"name": "http1", "containerPort": self.settings.inference_port, "protocol": "TCP"}],
            "resources": {
                "requests": {"cpu": str(self.settings.workers), "memory": f"{memory}Mi"},
                "limits": {"memory": f"{memory}Mi"},
            },
            "startupProbe": {
                **probe,
                "periodSeconds": 5,
                "failureThreshold": 1 + self.settings.start_timeout // 5,
            },
            "readinessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 2},
            "livenessProbe": {**probe, "periodSeconds": 20, "failureThreshold": 6},
            "lifecycle": {
                "preStop": {"exec": {"command": ["sleep", "10"]}}
            },  # until nobody is sent here any more
            "securityContext": PRIVATE,
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108
        }


def onnx(service: Service) -> Manifest:
    """The second server in a container of its own; its token comes from a secret."""
    port = service.settings.metrics_port
    probe = {"httpGet": {"path": "/ping", "port": port}, "timeoutSeconds": 3}
    container = service.container("onnx", service.memory, probe)
    container["env"] += [
        {"name": "STORAGE_URI", "value": service.storage},
        {"name": KEYS, "value": f"{MOUNT}/{KEY_FILE}"},
    ]
    container["volumeMounts"] += [{"name": "token", "mountPath": MOUNT, "readOnly": True}]
    secret = {"name": "token", "secret": {"secretName": f"{service.name}-token"}}
    return service.manifest({"containers": [container], "volumes": [SCRATCH, secret]})


def torchserve(service: Service) -> Manifest:
    """KServe's own runtime for TorchServe, with an image that has what the archive needs."""
    command = ["python", "-m", "serving.container"]
    probe = {"exec": {"command": [*command, "ready"]}, "timeoutSeconds": 5}
    settings = service.settings
    heap = int(settings.heap[:-1]) * (1024 if settings.heap.endswith("g") else 1)
    container = service.container("torchserve", service.memory + settings.workers * 256 + 2 * heap, probe)
    model = {
        "modelFormat": {"name": "pytorch"},
        "runtime": "kserve-torchserve",
        "protocolVersion": "v2",
        "storageUri": service.storage,
        "command": command,
        **container,
    }
    return service.manifest({"model": model, "volumes": [SCRATCH]})


def policy(service: Service) -> Manifest:
    """Lets in the service's own namespace, and namespaces that are labelled as its clients."""
    ports = [service.settings.inference_port, service.settings.metrics_port]
    clients = {"namespaceSelector": {"matchLabels": {"fairlead/clients": "true"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{service.name}-clients"},
        "spec": {
            "podSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": service.name}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [{"podSelector": {}}, clients],
                    "ports": [{"protocol": "TCP", "port": port} for port in ports],
                }
            ],
        },
    }


KINDS: dict[str, Callable[[Service], Manifest]] = {"onnx": onnx, "torchserve": torchserve}


def write(service: Service, out: Path) -> list[Path]:
    """Write a file a server, and tokens for the second one where there are none yet; gives their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, make in KINDS.items():
        path = out / f"{kind}.yaml"
        documents = [make(service), policy(service)]
        path.write_text("---\n".join(yaml.safe_dump(each, sort_keys=False) for each in documents))
        paths.append(path)
    if not (out / KEY_FILE).exists():
        write_keys(out, service.settings.token_minutes)
    return [*paths, out / KEY_FILE]

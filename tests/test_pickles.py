"""No pickle is ever loaded, whatever file or request it stands in, and no text is evaluated as code."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.inputs.spec import write_json
from serving.predictor import BACKENDS, Predictor
from serving.program import ProgramError, check_program
from tests.conftest import spec_of
from tests.traps import Trap

ROOT = Path(__file__).parents[1]


def test_the_trap_springs_where_a_pickle_is_loaded(trap: bytes, sprung: Path) -> None:
    pickle.loads(trap).close()  # noqa: S301
    assert sprung.exists()


@pytest.mark.parametrize(
    ("file", "backend"),
    [
        ("model.onnx", "onnx"),
        ("model.pt2", "pt2"),
        ("weights.safetensors", "eager"),
        ("spec.json", "onnx"),
        ("bundle.json", "onnx"),
    ],
)
def test_a_pickle_in_the_place_of_a_bundles_file_is_refused(
    planted: Path, trap: bytes, sprung: Path, file: str, backend: str
) -> None:
    (planted / file).write_bytes(trap)
    with pytest.raises(Exception, match=r"(?i)protobuf|parse|zip|json|utf-8|header|no such|find|model"):
        Predictor(planted, backend)
    assert not sprung.exists()
    assert backend in BACKENDS


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported program with a size that is not known, as ours are."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.layer(x), self.layer(x)])

    size = {0: torch.export.Dim("n")}
    exported = torch.export.export(Net(), (torch.zeros(2, 3),), dynamic_shapes=(size,))
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(exported, path)
    return path


def _changed(program: Path, folder: Path, change: Callable[[str, bytes], bytes], extra: str = "") -> Path:
    path = folder / "changed.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        if extra:
            new.writestr(extra, b"x")
    return path


def test_a_program_of_ours_is_loaded(program: Path, tmp_path: Path) -> None:
    """`export` leaves the sample inputs out, of which an empty file is written."""
    check_program(program)
    bare = _changed(program, tmp_path, lambda name, content: b"" if "sample_inputs" in name else content)
    check_program(bare)


@pytest.mark.parametrize("form", ["raw", "torch"])
def test_a_pickle_inside_an_exported_program_is_refused(
    program: Path, tmp_path: Path, sprung: Path, form: str
) -> None:
    """PyTorch itself unpickles this one: it asks for tensors alone, and where that fails, for anything."""
    import torch

    kept = io.BytesIO()
    if form == "raw":
        kept.write(pickle.dumps(Trap(sprung)))
    else:
        torch.save(Trap(sprung), kept)
    planted = _changed(program, tmp_path, lambda name, old: kept.getvalue() if name.endswith(".pt") else old)
    with pytest.raises(ProgramError, match="a pickle of more than tensors"):
        check_program(planted)
    assert not sprung.exists()


def test_code_in_the_size_of_an_exported_program_is_refused(program: Path, tmp_path: Path) -> None:
    """PyTorch evaluates these as Python."""

    def evil(name: str, old: bytes) -> bytes:
        call = b'"expr_str": "open(chr(97),chr(119))"'
        return re.sub(rb'"expr_str": "[^"]*"', call, old) if name.endswith("model.json") else old

    with pytest.raises(ProgramError, match="may run code"):
        check_program(_changed(program, tmp_path, evil))


@pytest.mark.parametrize(
    "expression",
    [
        "exec('x')", "S('exe'+'c'+'(1)')", "Symbol('a').__class__", "a.b", "Symbol(open)(1)", "lambda: 0",
        "[x for x in y]", "Symbol('a', key=eval(1))", "Lambda(1)", '"a"',
    ],
)  # fmt: skip
def test_sizes_may_only_be_arithmetic(program: Path, tmp_path: Path, expression: str) -> None:
    def evil(name: str, old: bytes) -> bytes:
        said = json.dumps({"expr_str": expression}).encode()
        return b'{"a": [' + said + b"]}" if name.endswith("model.json") else old

    with pytest.raises(ProgramError, match="may run code"):
        check_program(_changed(program, tmp_path, evil))


def test_pickled_weights_and_unknown_parts_of_a_program_are_refused(program: Path, tmp_path: Path) -> None:
    def pickled(name: str, old: bytes) -> bytes:
        return b'{"config": {"w": {"use_pickle": true}}}' if name.endswith("weights_config.json") else old

    with pytest.raises(ProgramError, match="weights are pickled"):
        check_program(_changed(program, tmp_path, pickled))
    with pytest.raises(ProgramError, match="no exported program of ours"):
        check_program(_changed(program, tmp_path, lambda _, old: old, "m/data/constants/custom_obj_0"))


def test_an_array_that_is_a_pickle_is_refused(tmp_path: Path, sprung: Path) -> None:
    from pipeline.core.dataset import Dataset

    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "image.npy", np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    write_json(folder / "spec.json", spec_of((1, 28, 28), "ab"))
    with pytest.raises(ValueError, match="Python objects"):
        Dataset(folder).column("image")
    assert not sprung.exists()


CODE = [
    path for folder in ("serving", "pipeline", "models") for path in sorted((ROOT / folder).rglob("*.py"))
]
FORBIDDEN = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _wrong(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {each.name}" for each in node.names if each.name.split(".")[0] in FORBIDDEN)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            name, given = _dotted(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name.endswith(("torch.load",)) and given.get("weights_only") != "True":
                yield f"{name} without weights_only=True"
            elif name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield f"{name} without allow_pickle=False"
            elif name in ("yaml.load", "yaml.unsafe_load", "pd.read_pickle", "eval", "exec", "os.system"):
                yield name
            elif given.get("shell") == "True" or given.get("trust_remote_code") == "True":
                yield f"{name} with {given}"


def test_no_code_of_ours_loads_a_pickle_or_evaluates_text() -> None:
    assert len(CODE) > 100
    found = {
        f"{path.relative_to(ROOT)}: {wrong}" for path in CODE for wrong in _wrong(ast.parse(path.read_text()))
    }
    # What a stage and the processes that it started itself tell each other, over pipes that nobody else has.
    engine = {
        f"pipeline/engine/{name}.py: import pickle" for name in ("local", "ray_data", "tasks", "worker")
    }
    assert found == engine


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p)", "np.load(p, allow_pickle=True)", "yaml.load(t)", "eval(t)", "subprocess.run(c, shell=True)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(_wrong(ast.parse(code)))

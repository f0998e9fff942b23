"""Texts: tables are read as a server reads requests; the tokenizer knows training alone; errors name their line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.bodies import text_body
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.ingest import Ingest, ingest
from pipeline.prepare import write_splits
from pipeline.sources import Data, Source, open_source
from pipeline.transforms import FITS
from serving.inputs.body import BadInput
from serving.inputs.decode import decoder
from serving.inputs.spec import TextInput, read_json
from serving.inputs.text import canonical

TABLE = '''text,who,verdict
good stuff,a,yes
"two
lines, ""quoted""",b,no
  cafe\u0301  ,a,yes
[not] JSON,c,no
{"neither": 1},c,no
\ufeffmarked,c,yes
'''


def data(path: Path, **more: object) -> Data:
    return Data.model_validate({"source": "text", "path": str(path), **more})


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def taken(source: Source, folder: Path, size: int = 512) -> Dataset:
    ingest(source, Ingest(chunk=size), folder)
    return Dataset(folder)


def wrongs(source: Source) -> list[str]:
    bad: list[str] = []
    list(source.chunks(100, bad))
    return bad


def origins(folder: Path) -> list[str]:
    return [line.split(",")[1] for line in (folder / "manifest.csv").read_text().splitlines()[1:]]


def texts(dataset: Dataset) -> list[str]:
    return [dataset.inputs[at].tobytes().decode() for at in range(len(dataset))]


def generated(rows: int) -> str:
    """Rows of words, some of each class alone."""
    generator = np.random.default_rng(1)
    words = {"good": ["fine", "lovely", "great"], "bad": ["stale", "awful", "poor"]}
    common = ["the", "tea", "was", "and", "coffee"]
    lines = []
    for at in range(rows):
        name = "good" if at % 2 else "bad"
        chosen = [*generator.choice(common, 6), *generator.choice(words[name], 2)]
        lines.append(f"{' '.join(chosen)} {at},{name}")
    return "text,label\n" + "\n".join(lines) + "\n"


def test_texts_are_canonical_and_known_by_the_line_that_they_begin_on(tmp_path: Path) -> None:
    dataset = taken(
        open_source(data(write(tmp_path / "r.csv", "\ufeff" + TABLE), drop=["who"])), tmp_path / "out"
    )
    found = ["good stuff", 'two\nlines, "quoted"', "caf\u00e9", "[not] JSON"]
    assert texts(dataset)[:4] == found
    assert dataset.spec.classes == ("no", "yes")
    assert dataset.targets.tolist() == [1, 0, 1, 0, 0, 1]
    assert origins(tmp_path / "out") == [f"r.csv:{line}" for line in (2, 3, 5, 6, 7, 8)]
    assert (dataset.spec.input.name, dataset.spec.input.dtype) == ("text", "|u1")


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    from pyarrow import csv, parquet

    text = write(tmp_path / "r.csv", TABLE)
    (tmp_path / "p").mkdir()
    quoted = csv.ParseOptions(newlines_in_values=True)
    parquet.write_table(csv.read_csv(text, parse_options=quoted), tmp_path / "p" / "r.parquet")
    one = taken(open_source(data(text)), tmp_path / "one")
    other = taken(open_source(data(tmp_path / "p")), tmp_path / "other")
    assert texts(one) == texts(other)
    assert one.targets.tolist() == other.targets.tolist()


def test_numbers_are_a_regression(tmp_path: Path) -> None:
    rows = "".join(f"{at}.5,word {at},{-at}\n" for at in range(25))
    source = open_source(data(write(tmp_path / "r.csv", "stars,body,more\n" + rows), text_column="body",
                              target=["stars", "more"]))  # fmt: skip
    dataset = taken(source, tmp_path / "out")
    assert dataset.spec.targets == ("stars", "more")
    np.testing.assert_array_equal(dataset.targets[2], np.array([2.5, -2], np.float32))
    few = write(tmp_path / "few.csv", "text,stars\n" + "".join(f"w{at},{at % 5}\n" for at in range(25)))
    assert open_source(data(few)).spec.classes == ("0", "1", "2", "3", "4")
    assert open_source(data(few, task="regression")).spec.targets == ("stars",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (b",a,yes", "r.csv:2: the text is empty"),
        (b" \t ,a,yes", "r.csv:2: the text is empty"),
        (b"word,a,", "r.csv:2: the target 'verdict' is missing"),
        (b"word,a", "r.csv:2: 2 cells; expected 3"),
        (b"a,b,c,d", "r.csv:2: 4 cells"),
        (b"x" * 99 + b",a,yes", "r.csv:2: the text has 99 bytes; expected 50 at most"),
    ],
)
def test_a_bad_row_is_told_with_its_line_beside_the_good(tmp_path: Path, row: bytes, said: str) -> None:
    raw = b"text,who,verdict\n" + row + b"\nfine,a,yes\nbad,b,no\n"
    source = open_source(data(write(tmp_path / "r.csv", raw), text={"max_bytes": 50}))
    bad = wrongs(source)
    assert len(bad) == 1
    assert said in bad[0]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "r.csv is empty"),
        (
            "text,v\nok,1\nna\u00efve,2\n".encode("latin-1"),
            "r.csv:3: byte 3 of the line, 0xef, is not UTF-8",
        ),
        ("text,v\nok,1\n".encode("utf-16"), "r.csv is UTF-16; expected UTF-8"),
        (b"text;v\nok;1\n", "r.csv:1: the header is separated by ';'; expected commas"),
        (b"text,text\nok,1\n", "the column names ['text'] are there twice"),
        (b"text,\nok,1\n", "column 2 has no name"),
        (b"text\nok\n", "there is no column left to learn"),
        (b'text,v\n"never closed,1\nmore,2\n', "r.csv:2: not valid CSV"),
        (b'text,v\nok,1\n"a"b,2\n', "r.csv:3: not valid CSV"),
        (b"text,v\nok,1\nno,1\n", "'v' has 1 classes"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path: Path, raw: bytes, said: str) -> None:
    with pytest.raises(UserError) as told:
        open_source(data(write(tmp_path / "r.csv", raw)))
    assert said in str(told.value)


def test_a_parquet_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"r\.parquet is no Parquet file"):
        open_source(data(write(tmp_path / "r.parquet", b"text,v\nok,1\n")))


def test_groups_times_and_splits_are_kept(tmp_path: Path) -> None:
    raw = "text,user,when,part,v\na,u1,2024-01-01,train,x\nb,u1,2024-01-02,val,y\nc,u2,2024-01-03T12:00,test,x\n"
    wanted = data(write(tmp_path / "r.csv", raw), group="user", time="when", split="part", target=["v"])
    dataset = taken(open_source(wanted), tmp_path / "out")
    groups = np.array(dataset.column("group"))
    assert groups[0] == groups[1] != groups[2]
    assert np.diff(np.array(dataset.column("time"))).tolist() == [1, 1.5]
    assert np.array(dataset.column("split")).tolist() == [0, 1, 2]
    write(tmp_path / "r.csv", raw.replace("val", "dev"))
    assert "r.csv:3: the split is 'dev'; expected train, val or test" in wrongs(open_source(wanted))[0]


def test_every_request_decodes_to_the_text_that_was_ingested(tmp_path: Path) -> None:
    source = open_source(data(write(tmp_path / "r.csv", TABLE)))
    dataset = taken(source, tmp_path / "out")
    fitted = FITS["text"](dataset, np.ones(len(dataset), bool), tmp_path)
    decode = decoder(fitted.spec, tmp_path)
    tokens = fitted.encode(next(dataset.chunks()))["tokens"]
    places = origins(tmp_path / "out")
    found = source.requests(places)
    for row, place in enumerate(places):
        forms = [request.suffix for request in found[place]]
        assert forms == (["txt", "json"] if row < 3 else ["json"])
        for request in found[place]:
            np.testing.assert_array_equal(decode(request.body), tokens[row])
        for number in (0, 1):  # what certify sends
            body, _ = text_body(dataset.inputs[row], number, dataset.spec)
            np.testing.assert_array_equal(decode(body), tokens[row])


def test_chunks_of_any_size_give_the_same_data(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", TABLE)
    for size in (1, 2, 512):
        taken(open_source(data(path, group="who")), tmp_path / str(size), size)
    files = sorted(file.name for file in (tmp_path / "1").iterdir())
    assert {"text.npy", "text.offsets.npy", "label.npy", "group.npy", "manifest.csv"} <= set(files)
    for file in files:
        assert len({(tmp_path / str(size) / file).read_bytes() for size in (1, 2, 512)}) == 1, file


def test_the_tokenizer_is_the_same_every_time_and_knows_training_alone(tmp_path: Path) -> None:
    dataset = taken(open_source(data(write(tmp_path / "r.csv", generated(60)))), tmp_path / "out")
    rare = "zyzzyva zyzzyva zyzzyva"
    lines = generated(60).splitlines()
    lines[-5:] = [line.replace(",", f" {rare},") for line in lines[-5:]]
    changed = taken(open_source(data(write(tmp_path / "c.csv", "\n".join(lines)))), tmp_path / "changed")
    split = np.array([0] * 40 + [1] * 10 + [2] * 10, np.uint8)
    for name, each in (("one", dataset), ("again", dataset), ("changed", changed)):
        (tmp_path / "s" / name).mkdir(parents=True)
        write_splits(each, split, tmp_path / "s" / name)
    folders = [tmp_path / "s" / name / "transform" for name in ("one", "again", "changed")]
    for file in ("tokenizer.json", "transform.json"):
        assert len({(folder / file).read_bytes() for folder in folders}) == 1, file
    known = read_json(folders[0] / "tokenizer.json")["model"]["vocab"]
    assert not any("zyzzyva" in token for token in known)
    assert read_json(folders[0] / "transform.json")["tokens"] == len(known)
    test, inputs = Dataset(tmp_path / "s" / "changed" / "test"), changed.inputs
    decode = decoder(test.spec, folders[2])
    for at in range(10):
        np.testing.assert_array_equal(decode(inputs[50 + at].tobytes()), test.inputs[at])
    assert test.inputs.values.min() >= 1
    assert test.inputs.values.max() < len(known)


def test_long_texts_are_cut_alike_and_none_is_without_tokens(tmp_path: Path) -> None:
    rows = "".join(f"{'word ' * (9 * at + 1)},{'ab'[at % 2]}\n" for at in range(8))
    wanted = data(write(tmp_path / "r.csv", "text,v\n" + rows), text={"max_tokens": 8})
    dataset = taken(open_source(wanted), tmp_path / "out")
    fitted = FITS["text"](dataset, np.ones(8, bool), tmp_path)
    lengths = fitted.encode(next(dataset.chunks()))["tokens"].lengths
    assert lengths.min() >= 1
    assert lengths.max() == 8
    decode = decoder(fitted.spec, tmp_path)
    assert len(decode(b"word " * 500)) == 8
    assert len(decode("\U0001f600".encode())) >= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x\ud800", "half of a surrogate pair"),
        ("x" * 200_000, "200000 bytes"),
    ],
)
def test_what_is_no_text_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        canonical(text, TextInput())


def test_packaged_reviews_are_whole() -> None:
    source = open_source(Data(source="reviews"))
    assert len(source) == 5000
    assert source.spec.classes == ("great", "other")
    assert not wrongs(source)

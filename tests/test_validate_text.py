"""Stage `validate` on texts: short, damaged, repeated and copied ones are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.checks.findings import Finding
from pipeline.duplicates.texts import shingles
from pipeline.facts import phrases
from tests.validation import clean_texts, examined, findings, labels_of, text_data


def found(folder: Path, rows: list[str], **limits: object) -> dict[str, Finding]:
    return findings(text_data(folder, rows, labels_of(len(rows))), **limits)


def test_clean_texts_have_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, clean_texts()) == {}


def test_texts_are_measured(tmp_path: Path) -> None:
    rows = ["Grüße aus Köln!", "two words", *clean_texts(10)]
    _, facts = examined(text_data(tmp_path, rows, labels_of(12)))
    assert facts.measures["characters"].tolist() == [len(row) for row in rows]
    assert facts.measures["words"][:2].tolist() == [3, 2]
    assert facts.measures["beyond ASCII"][:2].tolist() == pytest.approx([3 / 15, 0])


def copied(rows: list[str]) -> None:
    rows[7] = rows[5]


def nearly(rows: list[str]) -> None:
    rows[7] = rows[5].upper().replace(" ", ", ") + "!"


def one_word_more(rows: list[str]) -> None:
    words = rows[5].split()
    rows[7] = " ".join([*words[:10], "indeed", *words[10:]])


def brief(rows: list[str]) -> None:
    rows[5] = "ab"


def wordless(rows: list[str]) -> None:
    rows[5] = "... --- ..." * 20


def lost(rows: list[str]) -> None:
    rows[5] = rows[5][:50] + "\N{REPLACEMENT CHARACTER}" + rows[5][50:]


def long(rows: list[str]) -> None:
    rows[5] = " ".join(clean_texts(60, seed=9))


FAULTS: list[tuple[Callable[[list[str]], None], str, str]] = [
    (copied, "duplicates", "max_duplicates"),
    (nearly, "near duplicates", "max_near_duplicates"),
    (one_word_more, "near duplicates", "max_near_duplicates"),
    (brief, "short", "max_short"),
    (wordless, "short", "max_short"),
    (lost, "damaged", "max_damaged"),
    (long, "length outliers", "max_outliers"),
]


@pytest.mark.parametrize(("plant", "check", "limit"), FAULTS)
def test_a_planted_fault_is_a_warning_up_to_its_limit_and_an_error_above(
    tmp_path: Path, plant: Callable[[list[str]], None], check: str, limit: str
) -> None:
    rows = clean_texts()
    plant(rows)
    warning = found(tmp_path, rows, **{limit: 1 / 60})[check]
    assert (warning.level, warning.count) == ("warning", 1)
    assert "file5" in {origin for example in warning.examples for origin in example.origins}
    assert found(tmp_path, rows, **{limit: 1 / 60 - 0.001})[check].level == "error"


@pytest.mark.parametrize("place", [0, 1])
def test_words_that_many_texts_hold_are_named_in_full(tmp_path: Path, place: int) -> None:
    rows = clean_texts(100)
    said = "Sent from my little pocket telephone, excuse brevity"
    for at in range(0, 100, 4):
        rows[at] = f"{said} {rows[at]}" if place else f"{rows[at]} {said}"
    finding = found(tmp_path, rows)["boilerplate"]
    assert (finding.level, finding.count) == ("warning", 25)
    assert "'sent from my little pocket telephone excuse brevity'" in finding.message
    assert "boilerplate" not in found(tmp_path, rows, warn_boilerplate=0.25)


def test_copies_are_no_boilerplate_and_some_texts_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = clean_texts(20) * 4
    assert "boilerplate" not in found(tmp_path, rows, max_duplicates=1.0)
    monkeypatch.setattr(phrases, "LOOKED", 10)
    some = [f"{text} and that is the end of it" for text in clean_texts(40)]
    assert found(tmp_path, some)["boilerplate"].value == 1


def test_many_variants_of_some_texts_are_grouped_and_others_are_not(tmp_path: Path) -> None:
    base = clean_texts(300)
    draw = np.random.default_rng(0)
    rows = list(base)
    for text in base[:30] * 3:
        words = text.split()
        words[draw.integers(len(words))] = "other"
        rows.append(" ".join(words))
    _, facts = examined(text_data(tmp_path, rows, labels_of(len(rows))))
    groups = facts.duplicates.groups
    assert (groups[:300] == np.arange(300)).all()
    assert (groups[300:] == np.tile(np.arange(30), 3)).mean() > 0.9


def test_texts_that_share_an_ending_are_no_copies(tmp_path: Path) -> None:
    rows = [f"{text} and here they all end with the very same words" for text in clean_texts(100)]
    _, facts = examined(text_data(tmp_path, rows, labels_of(100)))
    assert (facts.duplicates.groups == np.arange(100)).all()


def test_shingles_of_any_script_and_of_the_shortest_text() -> None:
    assert len(shingles("x")) == 1
    assert len(shingles("日本語の文章はここにあります")) == 14 - 8 + 1
    same = np.intersect1d(shingles("The cat sat on the mat"), shingles("the CAT sat on a mat"))
    assert 0 < len(same) < 15

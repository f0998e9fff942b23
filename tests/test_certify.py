"""A real TorchServe must answer what was evaluated; what keeps it from that is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.recipes import refused
from tests.road import Road

pytestmark = pytest.mark.slow


def test_every_way_to_ask_was_compared_and_agrees(road: Road) -> None:
    report = road.json("data/certify/report.json")
    asked = {entry["backend"]: entry for entry in report["comparisons"]}
    ways = [
        "torchserve, golden requests",
        "torchserve, one connection",
        "torchserve, 8 connections",
        "onnx",
        "pt2",
        "eager",
    ]
    assert set(ways) <= asked.keys()
    assert all(entry["max_difference"] <= 1e-4 and entry["labels_changed"] == 0 for entry in asked.values())
    assert asked["torchserve, 8 connections"]["samples"] == 64
    assert report["latency_ms"]["lone"]["p50"] > 0


def test_no_java_is_told(road: Road) -> None:
    road.set({"server": {"java": "/nowhere/java"}})
    told = refused(road, "certify")
    road.set({"server": {"java": None}})
    assert "no Java at /nowhere/java" in told


def test_a_model_that_the_server_answers_differently_is_stopped(road: Road, tmp_path: Path) -> None:
    other = road.copy(tmp_path / "road")
    path = other.folder / "data" / "evaluate" / "outputs.npy"
    wrong = np.load(path)
    wrong[5] = np.roll(wrong[5], 1)
    np.save(path, wrong)
    before = other.digest("data/certify")
    told = refused(other, "certify")
    assert "the live model is not the evaluated one" in told
    assert "1 of 64 labels changed" in told
    assert other.digest("data/certify") == before
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if str(other.folder) in " ".join(p.info["cmdline"] or [])
    ]


def test_a_server_that_is_too_slow_is_stopped(road: Road, tmp_path: Path) -> None:
    other = road.copy(tmp_path / "road")
    other.set({"certify": {"max_p99_ms": 0.01}})
    told = refused(other, "certify")
    assert "certify.max_p99_ms allows 0.01" in told

"""Every recipe is a complete and right parameter file."""

from __future__ import annotations

import yaml

from pipeline.core.params import KEYS
from pipeline.schema import check_all
from tests.road import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_every_recipe_is_complete_and_right() -> None:
    assert len(RECIPES) >= 1
    for recipe in RECIPES:
        assert set(yaml.safe_load(recipe.read_text())) == set(KEYS), recipe.name
        check_all(recipe)


def test_the_default_is_the_mnist_recipe() -> None:
    assert (ROOT / "recipes" / "mnist.yaml").read_text() == (ROOT / "params.yaml").read_text()

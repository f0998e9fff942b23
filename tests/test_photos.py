"""Cells of photographs: which pixels each holds, that none is seen twice, and what is missing is told."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import extras, ingest, prepare, validate
from pipeline.core.dataset import Dataset
from pipeline.core.params import UserError
from pipeline.prepare import SPLITS
from pipeline.sources import Data, open_source
from pipeline.sources.photos import CELL, CELLS, PhotosSource, cells
from serving.inputs.spec import ImageInput
from tests.conftest import set_params

DATA = Data(source="photos", image=ImageInput(height=CELL, width=CELL, channels=3))


def test_a_cell_holds_the_pixels_of_its_place() -> None:
    source = open_source(DATA)
    assert isinstance(source, PhotosSource)
    bad: list[str] = []
    chunks = list(source.chunks(100, bad))
    assert bad == source.left_out() == []
    assert sum(map(len, chunks)) == len(source) == CELLS * len(source.classes) == 384
    origin, image, label = (
        chunks[0].origins[30],
        chunks[0].columns["image"][30],
        chunks[0].columns["label"][30],
    )
    file, _, place = origin.partition(":")
    top, left = map(int, place.split(","))
    with Image.open(extras.folder_of("photos") / "data" / file) as photo:
        pixels = np.asarray(photo.convert("RGB"))[top : top + CELL, left : left + CELL]
    np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))
    assert source.classes[label] == Path(file).stem == "brick"
    form, as_json = source.requests([origin])[origin]
    assert (form.suffix, form.content_type, as_json.suffix) == ("png", "image/png", "json")


@pytest.mark.parametrize(("height", "width"), [(300, 451), (303, 384), (1411, 1411)])
def test_cells_do_not_overlap_and_lie_inside(height: int, width: int) -> None:
    found = cells(height, width)
    assert len(set(found)) == CELLS
    assert all(top + CELL <= height and left + CELL <= width for top, left in found)
    for at, one in enumerate(found):
        for other in found[:at]:
            assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) >= CELL
    assert all(one < other for one, other in pairwise(found))


def test_the_stages_take_them_and_no_pixel_is_in_two_splits(project: Path) -> None:
    image = {"height": CELL, "width": CELL, "channels": 3}
    set_params(project, {"data.source": "photos", **{f"data.image.{key}": value for key, value in image.items()},
                         "prepare.val": 0.2, "prepare.test": 0.5})  # fmt: skip
    for stage in (ingest, validate, prepare):
        stage.run()
    place = {bytes(one): at for at, one in enumerate(np.array(Dataset(Path("data/ingest")).column("id")))}
    seen = [
        {place[bytes(one)] for one in np.array(Dataset(prepare.OUTPUT / name).column("id"))}
        for name in SPLITS
    ]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    for name in SPLITS:
        assert len(np.unique(Dataset(prepare.OUTPUT / name).targets)) == 16


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.NEEDS, "photos", extras.Package("no_such_module", "scikit-image"))
    with pytest.raises(
        UserError, match=r"'scikit-image', which is not installed; run: pip install .*\[examples\]"
    ):
        open_source(DATA)

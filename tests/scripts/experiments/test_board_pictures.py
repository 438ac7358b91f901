"""The pictures of docs/tutorials/board.md: TensorBoard on real runs, in a browser."""

from pathlib import Path

import pytest
from experiments import board_pictures

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "tutorials" / "board"


def test_the_page_has_each_picture_and_they_are_small():
    page = (ROOT / "docs" / "tutorials" / "board.md").read_text(encoding="utf-8")
    assert {path.stem for path in FOLDER.glob("*.png")} == {*board_pictures.PAGES}
    for name in board_pictures.PAGES:
        assert f"(board/{name}.png)" in page, f"the page does not show {name}"
        assert (FOLDER / f"{name}.png").stat().st_size <= board_pictures.LARGEST


@pytest.mark.slow  # two trainings, and a browser that draws five pages
def test_the_pictures_are_made_anew(tmp_path):
    if board_pictures.chromium() is None:
        pytest.skip("there is no Chromium here")
    assert board_pictures.run(["-o", str(tmp_path), "-n", "12000"]) == 0
    for name in board_pictures.PAGES:
        picture = (tmp_path / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and 5_000 < len(picture) <= board_pictures.LARGEST, name

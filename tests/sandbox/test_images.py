"""Picture files: within limits, or one line that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sectow_fast.data.images import FolderImages
from sectow_fast.types import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    Image.effect_noise((40, 30), 50).convert("RGB").save(root / "good.png")
    return root


def refusal(images: FolderImages, key: str) -> str:
    with pytest.raises(UserError) as caught:
        images.open(key)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_opens_as_rgb(folder: Path) -> None:
    Image.new("P", (3, 2)).save(folder / "palette.png")
    images = FolderImages(folder)
    assert images.open("good.png").size == (40, 30)
    assert images.open("palette.png").mode == "RGB"


@pytest.mark.parametrize("key", ["../outside.png", "a/../../outside.png", "link.png"])
def test_nothing_outside_the_folder_opens(folder: Path, key: str) -> None:
    Image.new("RGB", (2, 2)).save(folder.parent / "outside.png")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    assert "outside" in refusal(FolderImages(folder), key)


def test_limits_name_the_file_and_what_was_found(folder: Path) -> None:
    size = (folder / "good.png").stat().st_size
    told = refusal(FolderImages(folder, max_bytes=size - 1), "good.png")
    assert "good.png" in told and str(size) in told
    assert "40 x 30" in refusal(FolderImages(folder, max_pixels=1199), "good.png")
    assert FolderImages(folder, max_bytes=size, max_pixels=1200).open("good.png")


def test_broken_missing_and_animated_files_are_refused(folder: Path) -> None:
    whole = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "words.png").write_text("no picture")
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    images = FolderImages(folder)
    for key, told in (
        ("cut.png", "damaged"),
        ("words.png", "no known image format"),
        ("moving.gif", "2 frames"),
        ("absent.png", "no such file"),
    ):
        message = refusal(images, key)
        assert told in message and key in message

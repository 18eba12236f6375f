"""Picture files: within limits, or one line that names the file."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

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
    # A TIFF whose second picture has no size.
    Image.new("RGB", (4, 4)).save(folder / "second.tiff")
    data = bytearray((folder / "second.tiff").read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, len(data))
    data += struct.pack("<HHHIII", 1, 305, 2, 4, 0, 0)
    (folder / "second.tiff").write_bytes(data)
    images = FolderImages(folder)
    for key, told in (
        ("cut.png", "damaged"),
        ("second.tiff", "damaged"),
        ("words.png", "no known image format"),
        ("moving.gif", "2 frames"),
        ("absent.png", "no such file"),
    ):
        message = refusal(images, key)
        assert told in message and key in message


# ---- as a person sees them


def letters(mode: str, ink, paper) -> Image.Image:
    image = Image.new(mode, (120, 60), paper)
    ImageDraw.Draw(image).text((10, 15), "STEP 1", fill=ink, font_size=28)
    return image


def odd_pictures(folder: Path) -> Image.Image:
    """One picture of dark letters on white in many kinds of file; returns the plain one."""
    plain = letters("RGB", (0, 0, 0), (255, 255, 255))
    letters("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)).save(folder / "rgba.png")
    letters("LA", (0, 255), (0, 0)).save(folder / "la.png")
    letters("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)).quantize(4).save(folder / "palette.png")
    letters("RGB", (0, 0, 0), (1, 2, 3)).save(folder / "rgb_key.png", transparency=(1, 2, 3))
    grey = np.asarray(plain.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "grey16.png")
    Image.fromarray(grey.astype(np.int32)).save(folder / "grey32.tif")
    Image.fromarray(grey.astype(np.float32) / 65535).save(folder / "float.tif")
    plain.convert("1").save(folder / "bilevel.png")
    plain.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    plain.save(folder / "still.webp", lossless=True)
    plain.save(folder / "phone.jpg", format="MPO", save_all=True, append_images=[plain])
    return plain


def test_every_kind_of_file_shows_the_same_picture(folder: Path) -> None:
    before = set(folder.iterdir())
    plain = np.asarray(odd_pictures(folder)).astype(int)
    images = FolderImages(folder)
    for path in sorted(set(folder.iterdir()) - before):
        image = images.open(path.name)
        assert image.mode == "RGB" and image.size == images.size(path.name) == (120, 60)
        # JPEG is not exact, and a palette or one bit has fewer greys at the letters' edges.
        gap = np.abs(np.asarray(image).astype(int) - plain).mean()
        assert gap < 4, (path.name, gap)


def test_16_bits_of_grey_keep_their_contrast(folder: Path) -> None:
    values = np.linspace(20000, 52640, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(values).save(folder / "deep.png")
    shown = np.asarray(FolderImages(folder).open("deep.png"))
    assert (shown.min(), shown.max()) == (round(20000 / 257), round(52640 / 257))


@pytest.mark.parametrize("number", range(1, 9))
def test_a_picture_is_turned_as_its_camera_was_held(folder: Path, number: int) -> None:
    stored = Image.effect_noise((40, 30), 50).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = number
    stored.save(folder / "turned.png", exif=exif)
    images = FolderImages(folder)
    theirs = ImageOps.exif_transpose(Image.open(folder / "turned.png"))
    assert np.array_equal(np.asarray(images.open("turned.png")), np.asarray(theirs))
    assert images.size("turned.png") == theirs.size == ((40, 30) if number < 5 else (30, 40))


def test_a_picture_that_would_be_shown_wrong_is_refused(folder: Path) -> None:
    data = bytearray((folder / "good.png").read_bytes())
    data[len(data) // 2] ^= 1  # Pillow decodes it, and shows what it makes of it
    (folder / "flipped.png").write_bytes(data)
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(folder / "nothing.tiff")
    for name in ("flipped.png", "nothing.tiff"):
        assert "found a damaged file" in refusal(FolderImages(folder), name)


def test_no_program_of_the_machine_is_asked_to_draw(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "drawing.eps")
    (folder / "drawing.eps").rename(folder / "drawing.png")
    assert "found no known image format" in refusal(FolderImages(folder), "drawing.png")


def test_a_pointer_of_git_lfs_is_named_as_one(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "pointer.png").write_text(pointer)
    assert "found a Git LFS pointer" in refusal(FolderImages(folder), "pointer.png")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_every_format_is_turned_once(folder: Path, kind: str) -> None:
    plain = Image.new("RGB", (40, 20))
    ImageDraw.Draw(plain).rectangle((0, 0, 19, 9), fill="white")  # the upper left
    exif = Image.Exif()
    exif[0x0112] = 6  # held on its side: to be turned by a quarter, clockwise
    plain.save(folder / f"held.{kind}", exif=exif)
    images = FolderImages(folder)
    seen = images.open(f"held.{kind}")
    assert images.size(f"held.{kind}") == seen.size == (20, 40)
    assert min(seen.getpixel((15, 5))) > 200 and max(seen.getpixel((5, 35))) < 60


def test_16_bits_with_a_transparent_grey_keep_their_contrast(folder: Path) -> None:
    ramp = np.linspace(0, 60000, 64).astype(np.uint16).repeat(4).reshape(64, 4)
    Image.fromarray(ramp).save(folder / "ramp.png", transparency=7)
    seen = np.asarray(FolderImages(folder).open("ramp.png"))[:, 0, 0]
    assert seen[0] == 0 and 215 < seen[-1] < 240 and (np.diff(seen.astype(int)) > 0).all()


def test_slivers_and_giants_are_told_apart_from_damage(folder: Path) -> None:
    Image.new("RGB", (10, 2010)).save(folder / "sliver.png")
    Image.new("1", (20000, 20000)).save(folder / "giant.png")
    images = FolderImages(folder)
    assert "10 x 2010 pixels, expected one side to be at most 200" in refusal(images, "sliver.png")
    assert "scale it down" in refusal(images, "giant.png")

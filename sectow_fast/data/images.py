"""Images by key. The sandbox draws its own; files come with limits and errors that name them.

Trainer, engines and evaluation see what `as_seen` makes of a file, and nothing else: the picture as
a person's viewer shows it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, runtime_checkable

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from sectow_fast.data.links import LFS, inside, refuse_pointer
from sectow_fast.types import UserError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 64_000_000
MAX_ASPECT = 200  # what Qwen-VL's processors refuse
# How a camera held: the turn that puts the picture upright, by EXIF's number (CIPA DC-008, 4.6.5).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises, beside its own errors, where a file is cut or wrong.
DAMAGE = (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error)
# What is opened. Pillow knows more, some by programs of the machine (PostScript by Ghostscript).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
LYING = (5, 6, 7, 8)  # those that exchange width and height


class ImageStore(Protocol):
    def open(self, key: str) -> Image.Image:
        """The RGB picture of a key."""
        ...

    def size(self, key: str) -> tuple[int, int]:
        """Width and height of that picture, found without decoding it."""
        ...


@runtime_checkable
class FileStore(ImageStore, Protocol):
    """A store of files, whose pictures can be checked before a run and need no second check."""

    def file(self, key: str) -> Path:
        """The file that the key's picture is in. UserError where there is none."""
        ...


class FolderImages:
    """Files below `root` by relative path: nothing outside it, nothing huge, broken or animated."""

    def __init__(
        self, root: Path, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.root, self.max_bytes, self.max_pixels = root.resolve(), max_bytes, max_pixels

    def open(self, key: str) -> Image.Image:
        """The picture in RGB. UserError names the file, what was found and what was expected."""
        path = self._path(key)
        return read_image(path, name=self._name(key), max_pixels=self.max_pixels)

    def size(self, key: str) -> tuple[int, int]:
        path = self._path(key)
        return image_size(path, name=self._name(key), max_pixels=self.max_pixels)

    def file(self, key: str) -> Path:
        """See `FileStore`."""
        self._path(key)
        return self.root / key

    def _name(self, key: str) -> str:
        """For messages: the hub's blobs have names that say nothing."""
        return str(self.root / key)

    def _path(self, key: str) -> Path:
        path, name = inside(self.root, key), self._name(key)
        if not path.is_file():
            raise UserError(
                f"image {name}: found no such file, expected a picture; is the download complete?"
            )
        check_bytes(path.stat().st_size, name, self.max_bytes)
        return path

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys with no file, in order. Each folder is listed once, so this is fast for 28,000.

        UserError for a key or a link that leads out of the root (see `inside`).
        """
        listed: dict[str, dict[str, bool]] = {}
        absent = []
        for key in keys:
            pure = PurePosixPath(key)
            folder = str(pure.parent)
            if folder not in listed:
                listed[folder] = _names(inside(self.root, folder))
            is_link = listed[folder].get(pure.name)
            if is_link is None or (is_link and not inside(self.root, key).is_file()):
                absent.append(key)
        return absent


def _names(folder: Path) -> dict[str, bool]:
    """What lies in a folder: name -> is it a link; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return {one.name: one.is_symlink() for one in found}
    except OSError:
        return {}


class StoresByName:
    """Several stores as one: the key "NAME/KEY" is KEY of the store NAME."""

    def __init__(self, stores: dict[str, ImageStore]) -> None:
        self.stores = stores

    def open(self, key: str) -> Image.Image:
        name, _, rest = key.partition("/")
        return self.stores[name].open(rest)

    def size(self, key: str) -> tuple[int, int]:
        name, _, rest = key.partition("/")
        return self.stores[name].size(rest)


def by_folder(keys: Iterable[str]) -> dict[str, int]:
    """How many of the keys lie in each folder."""
    counts: dict[str, int] = defaultdict(int)
    for key in keys:
        counts[str(PurePosixPath(key).parent)] += 1
    return dict(counts)


def check_bytes(size: int, name: object, limit: int = MAX_BYTES) -> None:
    if size > limit:
        raise UserError(f"image {name}: found {size} bytes, expected <= {limit}")


def image_of_bytes(data: bytes, name: str) -> Image.Image:
    """A picture that stands in a parquet cell, under the limits of a file."""
    check_bytes(len(data), name)
    return read_image(io.BytesIO(data), name=name, max_pixels=MAX_PIXELS)


def size_of_bytes(data: bytes, name: str) -> tuple[int, int]:
    """The size of what `image_of_bytes` would give."""
    check_bytes(len(data), name)
    return image_size(io.BytesIO(data), name=name, max_pixels=MAX_PIXELS)


def read_image(source: Path | IO[bytes], *, name: str, max_pixels: int) -> Image.Image:
    """The picture in RGB. UserError where it is damaged, animated or too large."""
    with _opened(source, name, max_pixels) as image:
        if image.format == "PNG":
            image.verify()  # its checksums, which decoding does not look at
        else:
            return as_seen(image)
    with _opened(source, name, max_pixels) as image:
        return as_seen(image)


def image_size(source: Path | IO[bytes], *, name: str, max_pixels: int) -> tuple[int, int]:
    """Width and height of what `read_image` would give, from the file's head alone; Pillow reads a
    whole PNG for its EXIF."""
    with _opened(source, name, max_pixels) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in LYING else (width, height)


def as_seen(image: Image.Image) -> Image.Image:
    """The picture in RGB as a person is shown it: turned as its camera was held, on white paper
    where it is transparent, and 16 bits of grey, or floats, brought to the 8 of a screen."""
    turn = TURNS.get(_orientation(image))
    if image.mode[0] in "IF":  # a colour of 16 bits that is to be transparent is left as it is
        image = _eight_bits(image)
    elif image.has_transparency_data:
        sheet = Image.new("RGBA", image.size, "white")
        sheet.alpha_composite(image.convert("RGBA"))
        image = sheet
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 where there is none. A damaged note on a picture is no damaged picture."""
    if image.format == "TIFF":
        return 1  # Pillow turns it itself
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floats, as 8 bits: black stays black, white stays white."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).any():
        raise ValueError("no brightness is a number")
    low, high = 0.0, 65535.0
    if image.mode == "F":
        low, high = (0.0, 1.0 if values.max(initial=0) <= 1 else 255.0)
    if not (values.min(initial=0) >= low and values.max(initial=0) <= high):
        low, high = float(np.nanmin(values)), float(np.nanmax(values))  # no range that is known
    scaled = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.nan_to_num(scaled).round().clip(0, 255).astype(np.uint8))


@contextlib.contextmanager
def _opened(source: Path | IO[bytes], name: str, max_pixels: int) -> Iterator[Image.Image]:
    """A still picture of at most `max_pixels`; what goes wrong inside is a damaged file."""
    try:
        with Image.open(source, formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UserError(
                    f"image {name}: found {width} x {height} pixels, expected"
                    f" <= {max_pixels} in all; scale it down"
                )
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise UserError(
                    f"image {name}: found {width} x {height} pixels, expected one side to be at"
                    f" most {MAX_ASPECT} times the other; cut it"
                )
            frames = getattr(image, "n_frames", 1)
            # A phone's MPO holds the photograph first, and then other views of it.
            if frames > 1 and image.format != "MPO":
                raise UserError(
                    f"image {name}: found {frames} frames, expected a still picture;"
                    " save one frame as PNG"
                )
            yield image
    except UnidentifiedImageError:
        refuse_pointer(_head(source), f"image {name}")
        raise UserError(
            f"image {name}: found no known image format, expected PNG or JPEG"
            f" (known: {', '.join(_formats())})"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            f"image {name}: found more pixels than Pillow opens, expected <= {max_pixels} in all;"
            " scale it down"
        ) from None
    except DAMAGE as error:
        raise UserError(
            f"image {name}: found a damaged file ({error}), expected a whole picture;"
            " download it again"
        ) from None


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(one for one in FORMATS if one in Image.OPEN)


def _head(source: Path | IO[bytes]) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(len(LFS))
    source.seek(0)
    return source.read(len(LFS))

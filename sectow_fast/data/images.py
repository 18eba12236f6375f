"""Images by key. The sandbox draws its own; files come with limits and errors that name them."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, runtime_checkable

from PIL import Image, UnidentifiedImageError

from sectow_fast.data.links import inside
from sectow_fast.types import UserError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 64_000_000


class ImageStore(Protocol):
    def open(self, key: str) -> Image.Image:
        """The RGB picture of a key."""
        ...


@runtime_checkable
class HasFiles(Protocol):
    """A store whose pictures are in files."""

    def file(self, key: str) -> Path:
        """The file that the key's picture is in."""
        ...


class FolderImages:
    """Files below `root` by relative path: nothing outside it, nothing huge, broken or animated."""

    def __init__(
        self, root: Path, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.root, self.max_bytes, self.max_pixels = root.resolve(), max_bytes, max_pixels

    def open(self, key: str) -> Image.Image:
        """The picture in RGB. UserError names the file, what was found and what was expected."""
        path = inside(self.root, key)
        name = str(self.root / key)  # the hub's blobs have names that say nothing
        if not path.is_file():
            raise UserError(
                f"image {name}: found no such file, expected a picture; is the download complete?"
            )
        check_bytes(path.stat().st_size, name, self.max_bytes)
        return read_image(path, name=name, max_pixels=self.max_pixels)

    def file(self, key: str) -> Path:
        """See `HasFiles`."""
        return self.root / key

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


def by_folder(keys: Iterable[str]) -> dict[str, int]:
    """How many of the keys lie in each folder."""
    counts: dict[str, int] = defaultdict(int)
    for key in keys:
        counts[str(PurePosixPath(key).parent)] += 1
    return dict(counts)


def check_bytes(size: int, name: object, limit: int = MAX_BYTES) -> None:
    if size > limit:
        raise UserError(f"image {name}: found {size} bytes, expected <= {limit}")


def image_of_bytes(data: bytes, *, name: str) -> Image.Image:
    """A picture that stands in a parquet cell, under the limits of a file."""
    check_bytes(len(data), name)
    return read_image(io.BytesIO(data), name=name, max_pixels=MAX_PIXELS)


def read_image(source: Path | IO[bytes], *, name: str, max_pixels: int) -> Image.Image:
    """The picture in RGB. UserError where it is damaged, animated or too large."""
    try:
        with Image.open(source) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UserError(
                    f"image {name}: found {width} x {height} pixels, expected"
                    f" <= {max_pixels} in all; scale it down"
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise UserError(
                    f"image {name}: found {frames} frames, expected a still picture;"
                    " save one frame as PNG"
                )
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise UserError(
            f"image {name}: found no known image format, expected PNG or JPEG"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image {name}: found a damaged file ({error}), expected a whole picture;"
            " download it again"
        ) from None

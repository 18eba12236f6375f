"""Images by key. The sandbox draws its own; files come with limits and errors that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from PIL import Image, UnidentifiedImageError

from sectow_fast.types import UserError

MAX_BYTES = 32 * 2**20
MAX_PIXELS = 64_000_000


class ImageStore(Protocol):
    def open(self, key: str) -> Image.Image:
        """The RGB picture of a key."""
        ...


class FolderImages:
    """Files below `root` by relative path: nothing outside it, nothing huge, broken or animated."""

    def __init__(
        self, root: Path, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.root, self.max_bytes, self.max_pixels = root.resolve(), max_bytes, max_pixels

    def open(self, key: str) -> Image.Image:
        """The picture in RGB. UserError names the file, what was found and what was expected."""
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root):
            raise UserError(f"image {key!r}: found a path outside {self.root}, expected one inside")
        if not path.is_file():
            raise UserError(
                f"image {path}: found no such file, expected a picture; is the download complete?"
            )
        size = path.stat().st_size
        if size > self.max_bytes:
            raise UserError(f"image {path}: found {size} bytes, expected <= {self.max_bytes}")
        try:
            with Image.open(path) as image:
                width, height = image.size
                if width * height > self.max_pixels:
                    raise UserError(
                        f"image {path}: found {width} x {height} pixels, expected"
                        f" <= {self.max_pixels} in all; scale it down"
                    )
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    raise UserError(
                        f"image {path}: found {frames} frames, expected a still picture;"
                        " save one frame as PNG"
                    )
                return image.convert("RGB")
        except UnidentifiedImageError:
            raise UserError(
                f"image {path}: found no known image format, expected PNG or JPEG"
            ) from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f"image {path}: found a damaged file ({error}), expected a whole picture;"
                " download it again"
            ) from None

"""One picture: from the bytes of its file to pixels; a damaged file is told by name."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, UnidentifiedImageError

from shrinkflow.errors import UserError

# Pillow also opens formats that run other programs (EPS); these are read by its own code.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}

_MODES = {1: "L", 3: "RGB"}


def check_channels(channels: int) -> None:
    """Raise `UserError` unless pictures can have so many channels."""
    if channels not in _MODES:
        raise UserError(f"shape has {channels} channels; pictures have 1 (grey) or 3 (colour)")


def decode(
    what: str, data: bytes, channels: int, check: Callable[[tuple[int, int]], None] | None = None
) -> Image.Image:
    """Return a picture as RGB (3 channels) or grey (1 channel, ITU-R 601 luma); `what` names it.

    Whatever its mode was (grey, palette, CMYK, with transparency), Pillow's `convert` turns it into that.
    `check` gets (width, height) before anything is unpacked, and raises where they will not do.
    Raises `UserError` for what is no picture, is damaged, or has more than 8 bits a channel.
    """

    def load(picture: Image.Image) -> Image.Image:
        if check:
            check(picture.size)
        return picture.convert(_MODES[channels])

    return _opened(what, data, load)


def inspect(what: str, data: bytes) -> None:
    """Raise `UserError` where `decode` would, in less time.

    All of the file is read; of a JPEG, only the coarsest picture in it is computed.
    """

    def load(picture: Image.Image) -> Image.Image:
        picture.draft(None, (1, 1))
        picture.load()
        return picture

    _opened(what, data, load)


def _opened(what: str, data: bytes, load: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            # Pillow only warns of so many, and refuses twice as many.
            if Image.MAX_IMAGE_PIXELS and picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            if picture.mode.startswith(("I", "F")):
                raise UserError(f"{what} has more than 8 bits a channel; convert it to 8")
            return load(picture)
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{what} has too many pixels for a picture; remove it") from None
    except Exception as error:  # Pillow raises nearly anything for damaged files
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"none of {', '.join(FORMATS)}" if unknown else error
        raise UserError(f"{what} is no readable picture ({reason}); remove it") from None

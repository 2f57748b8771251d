"""A picture of a drawn digit becomes an image as MNIST has them.

MNIST's digits are white on black, scaled to fit 20 x 20 pixels with their aspect ratio kept,
and have their centre of mass at the centre of 28 x 28 (LeCun et al. 1998, "Gradient-based
learning applied to document recognition", III A).
"""

import math
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from mnist.errors import UserError

# Not all that Pillow knows: EPS, for one, it hands to another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SIZE, BOX, FINE = 28, 20, 80  # pixels: of the image, around the digit, while a pen is widened
LARGEST = 512  # pixels of a picture's longer side that are worth the work
PEN = 0.1  # of the box: the width of MNIST's thinner strokes
FAINT = 3  # of 255 levels: what is fainter is no ink

Array = NDArray[Any]


def find(places: Iterable[Path]) -> list[Path]:
    """The places, each folder replaced by the pictures in it and below, where there are any."""
    suffixes = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
    paths: dict[Path, None] = {}
    for place in places:
        inside = [Path(folder, name) for folder, _, names in os.walk(place) for name in names]
        pictures = sorted(path for path in inside if path.suffix.lower() in suffixes)
        paths |= dict.fromkeys(pictures or [place])
    return list(paths)


def read(path: Path) -> Array:
    """The digit in a picture, as pixels like MNIST's, uint8 (28, 28).

    Raises:
        UserError: there is no file or no picture, or nothing is drawn in it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("neither a file nor a folder with pictures in it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # From 90 million pixels on; twice as many Pillow refuses by itself.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.draft("L", (LARGEST, LARGEST))
                digit = as_mnist(_grey(ImageOps.exif_transpose(image)))
    except Exception as error:  # Pillow's decoders raise what they like at damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: can't be read as a picture ({reason})") from error
    if digit is None:
        raise UserError(f"{path}: nothing is drawn in it")
    return digit


def as_mnist(picture: Image.Image) -> Array | None:
    """The digit in a grey picture, dark on light or light on dark, as pixels like MNIST's,
    uint8 (28, 28); None where nothing is drawn."""
    picture = picture.reduce(math.ceil(max(picture.size) / LARGEST))
    radius = max(picture.size) / 200
    blurred = picture.filter(ImageFilter.GaussianBlur(radius))  # dust and grain fade
    grey, soft = np.asarray(picture, np.float32), np.asarray(blurred, np.float32)
    # Four standard deviations of what blurring leaves of the grain.
    noise = 4 * 1.48 * float(np.median(np.abs(grey - soft))) / max(1, 3.54 * radius)
    paper = _paper(soft)
    ink, soft = grey - paper, soft - paper
    if -soft.min() > soft.max():
        ink, soft = -ink, -soft
    peak = soft.max()
    if peak < max(FAINT, 2 * noise):
        return None
    drawn = np.minimum(ink, soft) > max(0.1 * peak, noise)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    strokes = ((ink - noise) / (peak - noise)).clip(0, 1) * 255
    digit = Image.fromarray(strokes.astype(np.uint8))
    return _centre(_fit(_widen(_fit(digit, FINE)), BOX))


def _grey(image: Image.Image) -> Image.Image:
    """8 bits of grey of what the picture shows, or of where it is opaque, if that's the digit."""
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits, whose range says nothing
        numbers = np.nan_to_num(np.asarray(image, float))
        numbers -= numbers.min()
        image = Image.fromarray((numbers * (255 / (numbers.max() or 1))).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("L")
    image = image.convert("RGBA")
    grey, alpha = image.convert("L"), image.getchannel("A")
    shown = np.asarray(grey)[np.asarray(alpha) > 127]
    if shown.size < 0.5 * image.width * image.height or np.ptp(shown) < FAINT:
        return alpha
    paper = Image.new("L", image.size, int(np.median(shown)))
    paper.paste(grey, mask=alpha)
    return paper


def _paper(grey: Array) -> Array:
    """The grey of the bare paper: a plane, as light falls from one side, through the greys at
    the border, less those furthest off it, where the digit may touch."""
    y, x = (axis.astype(np.float32) for axis in np.ogrid[: grey.shape[0], : grey.shape[1]])
    places = np.stack([_border(np.broadcast_to(axis, grey.shape)) for axis in (y**0, y, x)], axis=1)
    levels = _border(grey)
    plane = np.array([np.median(levels), 0, 0], np.float32)
    for _ in range(3):
        off = np.abs(levels - places @ plane)
        kept = off <= np.median(off)
        plane = np.linalg.lstsq(places[kept], levels[kept], rcond=None)[0]
    return plane[0] + plane[1] * y + plane[2] * x


def _border(array: Array) -> Array:
    return np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])


def _fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _widen(image: Image.Image) -> Image.Image:
    """Draw a thin pen's strokes, which scaling down would fade, with a wider one."""
    drawn = np.asarray(image) > 127
    edges = np.diff(drawn, axis=0).sum() + np.diff(drawn, axis=1).sum()
    margin = max(0, int(PEN * FINE - 2 * drawn.sum() / max(1, edges)) // 2)
    return ImageOps.expand(image, margin).filter(ImageFilter.MaxFilter(2 * margin + 1))


def _centre(digit: Image.Image) -> Array:
    """Put the centre of mass into the middle, as far as there is room."""
    corner = []
    for axis, length in enumerate(digit.size):  # width, height
        mass = np.asarray(digit, float).sum(axis)
        centre = np.average(np.arange(length), weights=mass)
        corner.append(min(max(0, round(SIZE / 2 - centre)), SIZE - length))
    image = Image.new("L", (SIZE, SIZE))
    image.paste(digit, (corner[0], corner[1]))
    return np.asarray(ImageOps.autocontrast(image))

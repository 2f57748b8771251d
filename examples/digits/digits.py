"""A picture of a drawn digit becomes an image as MNIST has them.

MNIST's digits are white on black, scaled to fit 20 x 20 pixels with their aspect ratio kept,
and have their centre of mass at the centre of 28 x 28 (LeCun et al. 1998, "Gradient-based
learning applied to document recognition", III A).
"""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from hydrasweep import UserError

# Not all that Pillow knows: EPS, for one, it hands to another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")
SIZE, BOX, FINE = 28, 20, 80  # pixels: of the image, around the digit, while a pen is widened
LARGEST = 512  # pixels of a picture's longer side that are worth the work
PEN = 0.1  # of the box: the width of MNIST's thinner strokes
RIM = 0.1  # of a picture's height or width: where a line along its border is no part of a digit
FAINT = 12  # of 255 levels: what is fainter is the paper's grain

Array = NDArray[Any]


def read(path: Path) -> Array:
    """The digit in a picture, as pixels like MNIST's, uint8 (28, 28).

    Raises:
        UserError: there is no file or no picture, or nothing is drawn in it.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("neither a file nor a folder with pictures in it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                digit = as_mnist(_grey(ImageOps.exif_transpose(image)))
    except Exception as error:  # Pillow's decoders raise what they like at damaged files
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: can't be read as a picture ({reason})") from error
    if digit is None:
        raise UserError(f"{path}: nothing is drawn in it")
    return digit


def as_mnist(picture: Image.Image) -> Array | None:
    """The digit in a grey picture, dark on light or light on dark, as pixels like MNIST's,
    uint8 (28, 28); None where nothing is drawn."""
    picture = _without_lines(picture.reduce(math.ceil(max(picture.size) / LARGEST)))
    soft = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 200))  # grain, dust fade
    paper = _paper(np.asarray(soft, np.float32))
    ink, soft_ink = (np.asarray(image, np.float32) - paper for image in (picture, soft))
    if -soft_ink.min() > soft_ink.max():
        ink, soft_ink = -ink, -soft_ink
    peak = soft_ink.max()
    drawn = Image.fromarray(np.minimum(ink, soft_ink) > max(FAINT, 0.1 * peak))
    if not (box := drawn.getbbox()):
        return None
    strokes = Image.fromarray((ink / peak * 255).clip(0, 255).astype(np.uint8)).crop(box)
    return _centre(_fit(_widen(_fit(strokes, FINE)), BOX))


def _grey(image: Image.Image) -> Image.Image:
    """8 bits of grey of what the picture shows; where most of it is transparent, of the rest."""
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits, whose range says nothing
        numbers = np.asarray(image, float)
        numbers = np.interp(numbers, (numbers.min(), numbers.max()), (0, 255))
        return Image.fromarray(numbers.astype(np.uint8))
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if np.asarray(alpha).mean() < 128:
            return alpha
    return image.convert("L")


def _without_lines(picture: Image.Image) -> Image.Image:
    """The picture without what a form or a grid leaves of its lines along the borders."""
    grey = np.asarray(picture, np.float32)
    sides = (grey, grey[::-1], grey.T, grey.T[::-1])  # each with its border in row 0
    cuts = [0, 0, 0, 0]
    for strict in (False, True):  # without the corners, then where the other lines leave room
        for i, rows in enumerate(sides):
            n = _rim(rows.shape[1])
            ends = (cuts[2:], cuts[:2])[i // 2] if strict else (n, n)
            if cuts[i] or not strict:
                cuts[i] = _line(rows[:, ends[0] : rows.shape[1] - ends[1]])
    top, bottom, left, right = cuts
    return picture.crop((left, top, picture.width - right, picture.height - bottom))


def _line(rows: Array) -> int:
    """How many rows a line along the border takes, from the border on; 0 where there is none, or
    a stroke begins at it."""
    steps, clear = np.diff(rows[: _rim(len(rows)) + 1], axis=0), max(FAINT, 0.15 * np.ptp(rows))
    shares = np.maximum((steps > clear).mean(1), (steps < -clear).mean(1))
    return int(max(np.flatnonzero(shares > 0.97), default=-1)) + 1


def _rim(length: int) -> int:
    return min(max(4, round(RIM * length)), length // 4)


def _paper(grey: Array) -> Array:
    """The grey of the bare paper: a plane, as light falls from one side, through the greys at
    the border, less those furthest off it, where the digit may touch."""
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    y, x = np.ogrid[: grey.shape[0], : grey.shape[1]]
    levels, (rows, columns) = grey[border], np.nonzero(border)
    places = np.stack([np.ones(len(rows)), rows, columns], axis=1)
    plane = np.array([np.median(levels), 0, 0])
    for _ in range(3):
        off = np.abs(levels - places @ plane)
        kept = off <= np.median(off)
        plane = np.linalg.lstsq(places[kept], levels[kept], rcond=None)[0]
    return (plane[0] + plane[1] * y + plane[2] * x).astype(np.float32)


def _fit(image: Image.Image, side: int) -> Image.Image:
    width, height = (max(1, round(side * length / max(image.size))) for length in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _widen(image: Image.Image) -> Image.Image:
    """Draw a thin pen's strokes, which scaling down would fade, with a wider one."""
    drawn = np.asarray(image) > 127
    edges = np.diff(drawn, axis=0).sum() + np.diff(drawn, axis=1).sum()
    margin = max(0, int(PEN * FINE - 2 * drawn.sum() / max(1, edges)) // 2)
    return ImageOps.expand(image, margin).filter(ImageFilter.MaxFilter(2 * margin + 1))


def _centre(digit: Image.Image) -> Array:
    """Put the centre of mass into the middle, as far as there is room."""
    mass = np.asarray(digit, float)
    y, x = (np.average(places, weights=mass) for places in np.indices(mass.shape))
    left, top = (
        min(max(0, round(SIZE / 2 - place)), SIZE - length)
        for place, length in zip((x, y), digit.size, strict=True)
    )
    image = Image.new("L", (SIZE, SIZE))
    image.paste(digit, (left, top))
    return np.asarray(ImageOps.autocontrast(image))

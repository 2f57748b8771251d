"""A picture of a drawn digit becomes an image as MNIST has them.

MNIST's digits are white on black, scaled to fit 20 x 20 pixels with their aspect ratio kept,
and have their centre of mass at the centre of 28 x 28 (LeCun et al. 1998, "Gradient-based
learning applied to document recognition", III A).
"""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from hydrasweep import UserError

# Not all that Pillow knows: EPS, for one, it hands to another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SIZE, BOX, FINE = 28, 20, 80  # pixels: of the image, around the digit, while a pen is widened
LARGEST = 512  # pixels of a picture's longer side that are worth the work
PEN = 0.1  # of the box: the width of MNIST's thinner strokes
FAINT = 12  # of 255 levels: what is fainter is the paper's grain

Array = NDArray[Any]


def find(places: Iterable[Path]) -> list[Path]:
    """The places, each folder replaced by the pictures in it and below, where there are any."""
    suffixes = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
    paths: dict[Path, None] = {}
    for place in places:
        pictures = sorted(path for path in place.rglob("*") if path.suffix.lower() in suffixes)
        paths |= dict.fromkeys(pictures or [place])
    return list(paths)


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
    picture = picture.reduce(math.ceil(max(picture.size) / LARGEST))
    blurred = picture.filter(
        ImageFilter.GaussianBlur(max(picture.size) / 200)
    )  # grain and dust fade
    grey, soft = np.asarray(picture, np.float32), np.asarray(blurred, np.float32)
    paper = _paper(soft)
    ink, soft = grey - paper, soft - paper
    if -soft.min() > soft.max():
        ink, soft = -ink, -soft
    drawn = Image.fromarray(np.minimum(ink, soft) > max(FAINT, 0.1 * soft.max()))
    if not (box := drawn.getbbox()):
        return None
    strokes = (ink / soft.max()).clip(0, 1) * 255
    digit = Image.fromarray(strokes.astype(np.uint8)).crop(box)
    return _centre(_fit(_widen(_fit(digit, FINE)), BOX))


def _grey(image: Image.Image) -> Image.Image:
    """8 bits of grey of what the picture shows, or of where it is opaque, if that's the digit."""
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits, whose range says nothing
        numbers = np.asarray(image, float)
        numbers = np.interp(numbers, (numbers.min(), numbers.max()), (0, 255))
        image = Image.fromarray(numbers.astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("L")
    image = image.convert("RGBA")
    grey, alpha = image.convert("L"), image.getchannel("A")
    shown = np.asarray(grey)[np.asarray(alpha) > 127]
    if shown.size < 0.5 * image.width * image.height:
        return alpha
    paper = Image.new("L", image.size, int(np.median(shown)))
    paper.paste(grey, mask=alpha)
    return paper


def _paper(grey: Array) -> Array:
    """The grey of the bare paper: a plane, as light falls from one side, through the greys at
    the border, less those furthest off it, where the digit may touch."""
    border = np.ones(grey.shape, bool)
    border[1:-1, 1:-1] = False
    places = np.stack([np.ones(grey.shape), *np.indices(grey.shape)], axis=-1)
    paper = np.full(grey.shape, np.median(grey[border]))
    for _ in range(3):
        off = np.abs(grey - paper)
        kept = border & (off <= np.median(off[border]))
        paper = places @ np.linalg.lstsq(places[kept], grey[kept], rcond=None)[0]
    return paper


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
    mass = np.asarray(digit, float)
    places = [np.average(np.indices(mass.shape)[axis], weights=mass) for axis in (1, 0)]
    left, top = (
        min(max(0, round(SIZE / 2 - place)), SIZE - length)
        for place, length in zip(places, digit.size, strict=True)
    )
    image = Image.new("L", (SIZE, SIZE))
    image.paste(digit, (left, top))
    return np.asarray(ImageOps.autocontrast(image))

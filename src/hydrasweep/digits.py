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

from hydrasweep.errors import UserError

# Not all that Pillow knows: EPS, for one, it hands to another program.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SIZE, BOX, FINE = 28, 20, 80  # pixels: of the image, around the digit, while a pen is widened
LARGEST = 512  # pixels of a picture's longer side that are worth the work
PEN = 0.1  # of the box: the width of MNIST's thinner strokes
FAINT = 3  # of 255 levels: what is fainter is no ink

Array = NDArray[Any]


def read(path: Path) -> Array:
    """The digit in a picture, as pixels like MNIST's, uint8 (28, 28).

    Raises:
        UserError: the file is missing or no picture, or nothing is drawn in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # From 90 million pixels on; twice as many Pillow refuses by itself.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.draft("L", (LARGEST, LARGEST))
                picture = _grey(ImageOps.exif_transpose(image))
                digit = as_mnist(picture)
    except Exception as error:  # Pillow's decoders raise what they like at damaged files
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a picture that can be read ({reason})") from error
    if digit is None:
        raise UserError(f"{path}: nothing is drawn in it")
    return digit


def as_mnist(picture: Image.Image) -> Array | None:
    """The digit in a grey picture, dark on light or light on dark, as pixels like MNIST's,
    uint8 (28, 28); None where nothing is drawn."""
    picture = picture.reduce(math.ceil(max(picture.size) / LARGEST))
    radius = max(picture.size) / 200
    blurred = picture.filter(ImageFilter.GaussianBlur(radius))  # dust and grain fade
    grain = float(np.median(np.abs(np.asarray(picture, float) - np.asarray(blurred))))
    noise = 4 * 1.48 * grain / max(1, 3.54 * radius)  # four deviations of what blurring leaves
    ink, soft = _off_paper(picture), _off_paper(blurred)
    if -soft.min() > soft.max():
        ink, soft = -ink, -soft
    peak = soft.max()
    if peak < max(FAINT, 2 * noise):
        return None
    drawn = soft > max(0.15 * peak, noise)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    strokes = ((ink - noise) / (peak - noise)).clip(0, 1) * 255
    fine = _widen(_fit(Image.fromarray(strokes.astype(np.uint8)), FINE))
    return _centre(np.asarray(_fit(fine, BOX), float))


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


def _off_paper(picture: Image.Image) -> Array:
    """How far each pixel is from the paper: a plane, as light falls from one side, through
    the greys at the border, less those that the digit may touch."""
    grey = np.asarray(picture, float)
    y, x = np.mgrid[: picture.height, : picture.width]
    place = np.stack([np.ones_like(grey), y / picture.height, x / picture.width], axis=-1)
    levels, places = _border(grey), _border(place)
    plane = np.array([np.median(levels), 0, 0])
    for _ in range(3):
        off = np.abs(levels - places @ plane)
        paper = off <= np.median(off)
        plane = np.linalg.lstsq(places[paper], levels[paper], rcond=None)[0]
    return grey - place @ plane


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
    missing = int(PEN * FINE - 2 * drawn.sum() / max(1, edges))
    return image.filter(ImageFilter.MaxFilter(missing // 2 * 2 + 1)) if missing > 1 else image


def _centre(digit: Array) -> Array:
    """Put the centre of mass into the middle, as far as there is room."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    corner = []
    for axis, length in enumerate(digit.shape):
        mass = digit.sum(1 - axis)
        centre = mass @ np.arange(length) / mass.sum()
        corner.append(int(np.clip(round(SIZE / 2 - centre), 0, SIZE - length)))
    height, width = digit.shape
    image[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = (
        digit * (255 / digit.max())
    ).round()
    return image

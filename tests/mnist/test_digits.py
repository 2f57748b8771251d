"""Pictures of digits: whatever their size, polarity and kind, they become the same MNIST-like
image, and whatever can't be read is told in a sentence."""

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from application import Compose
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from strokes import Pixels, difference, draw, seen

import digits
from hydrasweep import UserError
from mnist import config


@functools.cache
def reference(digit: int, pen: int) -> Pixels:
    return seen(draw(digit, pen=pen))


def closest(pixels: Pixels, pen: int) -> int:
    """The digit that lies best on the pixels."""
    return min(range(10), key=lambda digit: difference(pixels, reference(digit, pen)))


def test_mnists_own_images_stay_as_they_are(compose: Compose) -> None:
    data, changes = config.build(compose(small=False).data), []
    for image in data.test().inputs[:300, 0].numpy():
        picture = Image.fromarray(image)
        for made in (picture, ImageOps.invert(picture)):
            changes.append(difference(seen(made), image))
    assert np.median(changes) < 0.2
    assert np.mean(changes) < 1


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    digit=st.integers(0, 9),
    height=st.integers(60, 700),
    left=st.integers(5, 500),
    top=st.integers(5, 500),
    right=st.integers(5, 300),
    pen=st.floats(0.04, 0.15),
    paper=st.integers(130, 255),
    ink=st.integers(0, 100),
    inverted=st.booleans(),
)
def test_size_place_and_polarity_do_not_matter(
    digit: int, height: int, left: int, top: int, right: int, pen: float, paper: int, ink: int,
    inverted: bool,
) -> None:  # fmt: skip
    width = max(2, round(pen * height))
    picture = draw(
        digit, canvas=(left + height + right, top + height + right), at=(left, top),
        height=height, pen=width, paper=paper, ink=ink,
    )  # fmt: skip
    pixels = seen(ImageOps.invert(picture) if inverted else picture)
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    assert pixels.max() >= 254
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    assert 16 <= max(np.ptp(rows), np.ptp(columns)) <= 19
    for axis in (0, 1):
        mass = pixels.sum(axis, dtype=float)
        assert abs(np.average(np.arange(28), weights=mass) - 14) < 1.1
    assert closest(pixels, round(pen * 300)) == digit


@pytest.mark.parametrize("pen", [1, 3, 10])
def test_thin_pen_is_drawn_as_wide_as_mnists(pen: int) -> None:
    thin, wide = seen(draw(8, pen=pen)), seen(draw(8, pen=30))
    assert thin.sum() > 0.65 * wide.sum()


def test_light_from_one_side_grain_and_dust_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    plain = draw(5, paper=240)
    lit = np.asarray(plain) * np.linspace(1, 0.5, plain.width) + rng.normal(0, 5, plain.size[::-1])
    lit[5, 5] = lit[-9, 9] = 0
    picture = Image.fromarray(lit.clip(0, 255).astype(np.uint8))
    assert difference(seen(picture), seen(plain)) < 8


def test_digit_may_touch_the_border() -> None:
    plain = draw(7, pen=50)
    tight = plain.crop(ImageOps.invert(plain).getbbox())
    assert difference(seen(tight), seen(plain)) < 8


def test_nothing_is_seen_on_empty_paper() -> None:
    rng = np.random.default_rng(0)
    grain = rng.normal(200, 8, (300, 300)).astype(np.uint8)
    light = np.linspace(100, 200, 300).astype(np.uint8)[None].repeat(300, 0)
    for paper in (np.zeros((1, 1), np.uint8), np.full((99, 5), 7, np.uint8), grain, light):
        assert digits.as_mnist(Image.fromarray(paper)) is None


def transparent(ink: int) -> Image.Image:
    image = Image.new("RGBA", (300, 400), (ink, ink, ink, 0))
    image.putalpha(draw(4, ink=255, paper=0))
    return image


def turned() -> Image.Image:
    image = draw(4).rotate(90, expand=True)
    image.getexif()[0x0112] = 6  # to be turned back by who shows it
    return image


KINDS: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "grey": ("a.png", lambda: draw(4)),
    "colour": ("a.png", lambda: ImageOps.colorize(draw(4), "navy", "beige")),
    "palette": ("a.png", lambda: draw(4).convert("P")),
    "1 bit": ("a.png", lambda: draw(4).convert("1")),
    "grey and alpha": ("a.png", lambda: draw(4).convert("LA")),
    "16 bits": ("a.png", lambda: Image.fromarray(np.asarray(draw(4)).astype(np.uint16) * 16)),
    "32 bits": ("a.tif", lambda: Image.fromarray(np.asarray(draw(4)).astype(np.int32))),
    "floats": ("a.tif", lambda: Image.fromarray(np.asarray(draw(4), np.float32) / 255)),
    "black on nothing": ("a.png", lambda: transparent(0)),
    "white on nothing": ("a.png", lambda: transparent(255)),
    "JPEG": ("a.jpg", lambda: draw(4)),
    "turned by EXIF": ("a.jpg", turned),
    "CMYK": ("a.jpg", lambda: draw(4).convert("CMYK")),
    "GIF": ("a.gif", lambda: draw(4)),
    "BMP": ("a.bmp", lambda: draw(4)),
    "WebP": ("a.webp", lambda: draw(4)),
    "megapixels": ("a.jpg", lambda: draw(4).resize((3000, 4000))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_file_does_not_matter(tmp_path: Path, kind: str) -> None:
    name, make = KINDS[kind]
    image = make()
    image.save(tmp_path / name, **({"exif": image.getexif()} if "EXIF" in kind else {}))
    assert difference(digits.read(tmp_path / name), seen(draw(4))) < 5


def png(width: int, height: int) -> bytes:
    """A PNG file that says it is so large and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "can't be read as a picture"),
        (b"seven", "can't be read as a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "can't be read as a picture"),
        (saved(draw(4))[:600], "can't be read as a picture"),
        (png(1000, 1000), "can't be read as a picture"),
        (png(60_000, 60_000), "decompression bomb"),
        (saved(Image.new("L", (300, 400), 255)), "nothing is drawn in it"),
        (saved(Image.new("RGBA", (300, 400))), "nothing is drawn in it"),
    ],
)
def test_what_is_no_digit_is_told_in_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as told:
        digits.read(path)
    assert str(told.value).startswith(f"{path}: ")
    assert "\n" not in str(told.value)


def test_what_is_no_file_is_told_in_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("none.png", "No such file"),
        ("x" * 300, "File name too long"),
        ("pipe", "neither a file nor a folder with pictures"),
        ("", "neither a file nor a folder with pictures"),
    ):
        with pytest.raises(UserError, match=words):
            digits.read(tmp_path / name)

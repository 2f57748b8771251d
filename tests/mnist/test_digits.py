"""Pictures of digits of any size, polarity and file format become the same MNIST-like image."""

import functools
import io
import os
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from strokes import difference, draw, seen

import digits
from hydrasweep import UserError
from mnist import config


@functools.cache
def reference(digit, pen):
    return seen(draw(digit, pen=pen))


def closest(pixels, pen):
    """The digit whose strokes differ least from the pixels."""
    return min(range(10), key=lambda digit: difference(pixels, reference(digit, pen)))


def test_images_of_mnist_stay_the_same(compose):
    data, changes = config.build(compose(small=False).data), []
    for image in data.test().inputs[:150, 0].numpy():
        picture = Image.fromarray(image)
        for made in (picture, ImageOps.invert(picture)):
            changes.append(difference(seen(made), image))
    assert np.median(changes) < 0.2
    assert np.mean(changes) < 1


@settings(deadline=None, derandomize=True, max_examples=25)
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
def test_size_position_and_polarity_do_not_matter(
    digit, height, left, top, right, pen, paper, ink,
    inverted,
):  # fmt: skip
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
def test_strokes_of_a_thin_pen_become_as_wide_as_those_of_mnist(pen):
    thin, wide = seen(draw(8, pen=pen)), seen(draw(8, pen=30))
    assert thin.sum() > 0.65 * wide.sum()


def test_uneven_light_noise_and_dust_do_not_matter():
    rng = np.random.default_rng(0)
    plain = draw(5, paper=240)
    lit = np.asarray(plain) * np.linspace(1, 0.5, plain.width) + rng.normal(0, 5, plain.size[::-1])
    lit[5, 5] = lit[-9, 9] = 0
    picture = Image.fromarray(lit.clip(0, 255).astype(np.uint8))
    assert difference(seen(picture), seen(plain)) < 8


def test_digit_may_touch_the_border():
    plain = draw(7, pen=50)
    tight = plain.crop(ImageOps.invert(plain).getbbox())
    assert difference(seen(tight), seen(plain)) < 8


def test_empty_paper_has_no_digit():
    rng = np.random.default_rng(0)
    grain = rng.normal(200, 8, (300, 300)).astype(np.uint8)
    light = np.linspace(100, 200, 300).astype(np.uint8)[None].repeat(300, 0)
    for paper in (np.zeros((1, 1), np.uint8), np.full((99, 5), 7, np.uint8), grain, light):
        assert digits.as_mnist(Image.fromarray(paper)) is None


def transparent(ink):
    image = Image.new("RGBA", (300, 400), (ink, ink, ink, 0))
    image.putalpha(draw(4, ink=255, paper=0))
    return image


def turned():
    image = draw(4).rotate(90, expand=True)
    image.getexif()[0x0112] = 6  # viewers turn it back
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
def test_file_format_does_not_matter(tmp_path, kind):
    name, make = KINDS[kind]
    image = make()
    image.save(tmp_path / name, **({"exif": image.getexif()} if "EXIF" in kind else {}))
    assert difference(digits.read(tmp_path / name), seen(draw(4))) < 5


def png(width, height):
    """A PNG file whose header has this size, without any pixels."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def saved(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "text": b"seven",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "cut short": saved(draw(4))[:600],
    "no pixels": png(1000, 1000),
    "decompression bomb": png(60_000, 60_000),
    "white paper": saved(Image.new("L", (300, 400), 255)),
    "transparent": saved(Image.new("RGBA", (300, 400))),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_file_without_a_digit_is_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "a.png"
    path.write_bytes(UNREADABLE[kind])
    with pytest.raises(UserError) as refused:
        digits.read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["none.png", "x" * 300, "pipe", ""])
def test_path_that_is_no_file_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError) as refused:
        digits.read(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)

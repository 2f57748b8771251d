"""Users predict digits that they cut out of pictures of grids."""

import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from strokes import difference, draw, seen

import digits

# A user cuts digits out of the grid of a sudoku or a form. A line of the grid stays at the border.
# What happened: the prediction was wrong.
# Sources: datascience.stackexchange.com/questions/131687 and /questions/114424
# Expected: the line is removed. Strokes of the digit that touch the border stay.
each_digit = pytest.mark.parametrize("digit", range(10))


def lined(image, sides, width, at=0, ink=0):
    """The picture with a line along each of the named sides, ``at`` pixels from the border."""
    image = image.copy()
    pencil, (right, bottom) = ImageDraw.Draw(image), (image.width - 1, image.height - 1)
    near, far = at, at + width - 1
    boxes = {
        "l": (near, 0, far, bottom),
        "r": (right - far, 0, right - near, bottom),
        "t": (0, near, right, far),
        "b": (0, bottom - far, right, bottom - near),
    }
    for side in sides:
        pencil.rectangle(boxes[side], fill=ink)
    return image


@each_digit
@pytest.mark.parametrize("width", [1, 2, 3])
def test_frame_is_removed(digit, width):
    plain = draw(digit)
    framed = ImageOps.expand(plain, width, 0)
    assert difference(seen(framed), seen(plain)) < 3
    assert difference(seen(ImageOps.invert(framed)), seen(plain)) < 3


@each_digit
@pytest.mark.parametrize("sides", ["l", "r", "t", "b", "lt", "rb", "lrt"])
def test_line_at_some_sides_is_removed(digit, sides):
    plain = draw(digit)
    assert difference(seen(lined(plain, sides, 3)), seen(plain)) < 3
    assert difference(seen(lined(plain, sides, 2, at=3, ink=90)), seen(plain)) < 3


@each_digit
def test_small_cell_with_soft_lines_is_read(digit):
    plain = draw(digit, canvas=(64, 64), at=(17, 12), height=40, pen=4)
    soft = ImageFilter.GaussianBlur(0.7)
    assert difference(seen(lined(plain, "lrtb", 3).filter(soft)), seen(plain.filter(soft))) < 3


def test_empty_cell_is_empty():
    cell = ImageOps.expand(Image.new("L", (60, 60), 230), 3, 20)
    assert digits.as_mnist(cell) is None


@each_digit
@pytest.mark.parametrize("pen", [10, 20, 50])
def test_strokes_that_touch_the_border_stay(digit, pen):
    plain = draw(digit, pen=pen)
    tight = plain.crop(ImageOps.invert(plain).getbbox())
    assert difference(seen(tight), seen(plain)) < 12


def test_printed_seven_keeps_its_bar():
    image = Image.new("L", (100, 160), 255)
    pencil = ImageDraw.Draw(image)
    pencil.rectangle((0, 0, 99, 13), fill=0)  # as wide as the image
    pencil.polygon([(84, 13), (99, 13), (45, 159), (30, 159)], fill=0)
    wide = ImageOps.expand(image, 40, 255)
    assert difference(seen(image), seen(wide)) < 12

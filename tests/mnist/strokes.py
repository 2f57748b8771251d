"""Drawn digits: strokes of a pen through points on a unit square."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import digits

Pixels = NDArray[np.uint8]

STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [[(0.5, 0.05), (0.25, 0.2), (0.15, 0.5), (0.25, 0.82), (0.5, 0.95), (0.75, 0.8),
         (0.85, 0.5), (0.75, 0.2), (0.5, 0.05)]],
    1: [[(0.4, 0.17), (0.55, 0.05), (0.5, 0.95)]],
    2: [[(0.2, 0.25), (0.35, 0.07), (0.65, 0.07), (0.8, 0.28), (0.65, 0.55), (0.2, 0.93)],
        [(0.2, 0.93), (0.85, 0.92)]],
    3: [[(0.2, 0.15), (0.5, 0.04), (0.78, 0.2), (0.65, 0.42), (0.42, 0.48)],
        [(0.42, 0.48), (0.75, 0.56), (0.82, 0.78), (0.55, 0.96), (0.18, 0.86)]],
    4: [[(0.35, 0.05), (0.2, 0.58), (0.85, 0.55)], [(0.68, 0.3), (0.62, 0.97)]],
    5: [[(0.8, 0.07), (0.3, 0.08)], [(0.3, 0.08), (0.25, 0.45)],
        [(0.25, 0.45), (0.55, 0.38), (0.82, 0.6), (0.7, 0.88), (0.4, 0.96), (0.17, 0.85)]],
    6: [[(0.7, 0.05), (0.4, 0.25), (0.22, 0.6), (0.35, 0.92), (0.65, 0.93), (0.78, 0.72),
         (0.6, 0.52), (0.35, 0.58), (0.24, 0.7)]],
    7: [[(0.15, 0.1), (0.85, 0.08)], [(0.85, 0.08), (0.6, 0.5), (0.42, 0.96)]],
    8: [[(0.72, 0.2), (0.5, 0.05), (0.28, 0.2), (0.42, 0.42), (0.68, 0.6), (0.75, 0.82),
         (0.5, 0.96), (0.25, 0.82), (0.35, 0.6), (0.65, 0.38), (0.72, 0.2)]],
    9: [[(0.75, 0.25), (0.5, 0.06), (0.25, 0.22), (0.32, 0.46), (0.6, 0.45), (0.75, 0.25)],
        [(0.75, 0.25), (0.72, 0.6), (0.6, 0.96)]],
}  # fmt: skip


def draw(
    digit: int,
    *,
    canvas: tuple[int, int] = (300, 400),
    at: tuple[int, int] = (50, 50),
    height: int = 300,
    pen: int = 20,
    ink: int = 0,
    paper: int = 255,
) -> Image.Image:
    """A grey picture of the digit. Lengths are in pixels; ``at`` is the top left corner."""
    image = Image.new("L", canvas, paper)
    pencil = ImageDraw.Draw(image)
    for stroke in STROKES[digit]:
        line = [tuple(place) for place in _curve(stroke) * (0.7 * height, height) + at]
        pencil.line(line, fill=ink, width=pen, joint="curve")
        for x, y in line[:: len(line) - 1]:  # round ends
            pencil.circle((x, y), pen / 2, fill=ink)
    return image


def _curve(stroke: list[tuple[float, float]], n: int = 24) -> NDArray[np.float64]:
    """Points on a Catmull-Rom spline, ``n`` from each given point to the next."""
    points = np.array(stroke)
    if len(points) == 2:
        return points
    points = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = np.linspace(0, 1, n)[:, None]
    pieces = [
        b
        + t * (c - a) / 2
        + t**2 * (a - 2.5 * b + 2 * c - d / 2)
        + t**3 * (3 * (b - c) + d - a) / 2
        for a, b, c, d in zip(points, points[1:], points[2:], points[3:], strict=False)
    ]
    return np.concatenate(pieces)


def seen(image: Image.Image) -> Pixels:
    pixels = digits.as_mnist(image)
    assert pixels is not None
    return pixels


def difference(one: Pixels, other: Pixels) -> float:
    """The mean difference of two images, of 255 levels, at the best shift by at most one pixel."""
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    rolled = [np.roll(other.astype(float), shift, axis=(0, 1)) for shift in shifts]
    return min(float(np.abs(one - image).mean()) for image in rolled)

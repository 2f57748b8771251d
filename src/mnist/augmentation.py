"""Random changes to whole batches of training images, as tensor operations."""

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hydrasweep import UserError


class RandomAffine(nn.Module):
    """A random rotation, scale, shear and shift for each image of a batch, bilinear.

    Takes and gives float pixels of shape (n, channels, height, width); what comes in from
    outside the image is 0, MNIST's background. Draws from torch's global generator.
    """

    def __init__(self, degrees: float, translate: float, scale: float, shear: float) -> None:
        super().__init__()
        self.degrees = degrees
        self.translate = translate
        self.scale = scale
        self.shear = shear

    def forward(self, images: Tensor) -> Tensor:
        return F.grid_sample(images, self._grid(images), align_corners=False)

    def _grid(self, images: Tensor) -> Tensor:
        """Where each pixel comes from: (n, height, width, 2), across and down from -1 to 1."""
        n = len(images)
        u = torch.rand(5, n, device=images.device) * 2 - 1
        angle = u[0] * math.radians(self.degrees)
        shear = torch.tan(u[1] * math.radians(self.shear))
        size = 1 + u[2] * self.scale
        cos, sin = angle.cos() / size, angle.sin() / size
        shift = u[3:] * self.translate * 2  # affine_grid's coordinates run from -1 to 1
        theta = torch.stack([cos, cos * shear - sin, shift[0], sin, sin * shear + cos, shift[1]])
        return F.affine_grid(theta.T.view(n, 2, 3), list(images.shape), align_corners=False)


class RandomElastic(RandomAffine):
    """A smooth random displacement of each pixel (Simard et al. 2003, Best practices for
    convolutional neural networks), and the affine change, in one resampling.

    Each pixel's displacement is uniform noise from -1 to 1, smoothed by a Gaussian with standard
    deviation ``sigma``, times ``alpha``, both in pixels.

    Raises:
        UserError: ``sigma`` is not above 0.
    """

    def __init__(
        self,
        alpha: float,
        sigma: float,
        degrees: float = 0.0,
        translate: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
    ) -> None:
        super().__init__(degrees, translate, scale, shear)
        if not sigma > 0:
            raise UserError(f"augmentation.sigma={sigma}: must be above 0")
        self.alpha = alpha
        self.sigma = sigma

    def _grid(self, images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        noise = torch.rand(n, 2, height, width, device=images.device) * 2 - 1
        down, across = (smoothing(size, self.sigma).to(images.device) for size in (height, width))
        moved = (down @ noise @ across.T).permute(0, 2, 3, 1)
        pixels = torch.tensor([2 / width, 2 / height], device=images.device)
        return super()._grid(images) + self.alpha * pixels * moved


@functools.cache
@torch.inference_mode(False)  # a later training takes it too
def smoothing(size: int, sigma: float) -> Tensor:
    """The matrix (size, size) that smooths a line by a Gaussian; at the ends, where part of the
    Gaussian lies outside, what is inside counts for more."""
    places = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-((places[:, None] - places) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)

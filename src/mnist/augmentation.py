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
        grid = self._grid(images).permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, align_corners=False)

    def _grid(self, images: Tensor) -> Tensor:
        """Where each pixel comes from: (n, 2, height, width), across and down from -1 to 1."""
        n, _, height, width = images.shape
        u = torch.empty(5, n, device=images.device).uniform_(-1, 1)
        angle = u[0] * math.radians(self.degrees)
        shear = torch.tan(u[1] * math.radians(self.shear))
        size = 1 + u[2] * self.scale
        cos, sin = angle.cos() / size, angle.sin() / size
        shift = u[3:] * self.translate * 2  # the whole image is 2 wide
        theta = [cos, cos * shear - sin, shift[0], sin, sin * shear + cos, shift[1]]
        # One product of matrices: F.affine_grid has one for each image, which takes much longer.
        moved = torch.stack(theta, 1).view(2 * n, 3) @ places(height, width).to(images.device)
        return moved.view(n, 2, height, width)


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
        noise = torch.empty(n, 2, height, width, device=images.device).uniform_(-1, 1)
        down, across = (smoothing(size, self.sigma).to(images.device) for size in (height, width))
        scale = self.alpha * torch.tensor([2 / width, 2 / height], device=images.device)
        moved = down @ noise @ across.T
        return torch.addcmul(super()._grid(images), moved, scale.view(2, 1, 1))


@functools.cache
@torch.inference_mode(False)  # a later training takes it too
def places(height: int, width: int) -> Tensor:
    """The middle of each pixel, (3, height * width): across and down from -1 to 1, and ones."""
    down, across = ((2 * torch.arange(size) + 1) / size - 1 for size in (height, width))
    grid = torch.meshgrid(across, down, indexing="xy")
    return torch.stack([*grid, torch.ones(height, width)]).flatten(1)


@functools.cache
@torch.inference_mode(False)  # a later training takes it too
def smoothing(size: int, sigma: float) -> Tensor:
    """The matrix (size, size) that smooths a line by a Gaussian; at the ends, where part of the
    Gaussian lies outside, what is inside counts for more."""
    at = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)

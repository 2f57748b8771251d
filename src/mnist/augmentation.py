"""Random changes to whole batches of training images, as tensor operations."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        n = len(images)
        u = torch.rand(5, n, device=images.device) * 2 - 1
        angle = u[0] * math.radians(self.degrees)
        shear = torch.tan(u[1] * math.radians(self.shear))
        size = 1 + u[2] * self.scale
        cos, sin = angle.cos() / size, angle.sin() / size
        shift = u[3:] * self.translate * 2  # affine_grid's coordinates run from -1 to 1
        theta = torch.stack([cos, cos * shear - sin, shift[0], sin, sin * shear + cos, shift[1]])
        grid = F.affine_grid(theta.T.view(n, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

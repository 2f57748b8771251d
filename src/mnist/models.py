"""The architectures. Each takes standardised images (n, channels, height, width) and gives
logits (n, n_classes)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hydrasweep import UserError


class Baseline(nn.Module):
    """A multilayer perceptron whose hidden layer is as wide as the image has values."""

    def __init__(
        self, n_channels: int, image_size: Sequence[int], n_classes: int, dropout: float
    ) -> None:
        super().__init__()
        n_inputs = n_channels * image_size[0] * image_size[1]
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(n_inputs, n_inputs),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(n_inputs, n_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images)


class CNN(nn.Module):
    """One convolution, one pooling with stride 1, two linear layers."""

    def __init__(
        self, n_channels: int, image_size: Sequence[int], n_classes: int, dropout: float
    ) -> None:
        super().__init__()
        height, width = image_size
        if min(height, width) < 2:
            raise UserError(
                f"model=cnn pools 2x2 pixels, but data.image_size is {height}x{width}: "
                "take images of at least 2x2 pixels"
            )
        self.features = nn.Sequential(
            nn.Conv2d(n_channels, 10, kernel_size=5, padding=2),
            nn.MaxPool2d(2, stride=1),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(10 * (height - 1) * (width - 1), 128),
            nn.ReLU(),
            nn.Linear(128, n_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class LeNet5(nn.Module):
    """LeNet5 after LeCun et al., Gradient-based learning applied to document recognition
    (1998), with padding in place of the 32x32 frame and plain average pooling."""

    def __init__(
        self, n_channels: int, image_size: Sequence[int], n_classes: int, dropout: float
    ) -> None:
        super().__init__()
        if tuple(image_size) != (28, 28):
            raise UserError(
                "model=lenet5 takes images of 28x28 pixels, for its last convolution to see "
                f"5x5, but data.image_size is {image_size[0]}x{image_size[1]}: take another "
                "model, or resize the images"
            )
        self.features = nn.Sequential(
            nn.Conv2d(n_channels, 6, kernel_size=5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(16, 120, kernel_size=5),
            nn.Tanh(),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(120, 84),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(84, n_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class VGG(nn.Module):
    """Five 3x3 convolutions with batch norm, a pooling after the first and the third, and the mean
    over the image, after Simonyan and Zisserman, Very deep convolutional networks (2014)."""

    def __init__(
        self,
        n_channels: int,
        image_size: Sequence[int],
        n_classes: int,
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if min(image_size) < 4:
            raise UserError(
                "model=vgg takes images of at least 4x4 pixels, which it halves twice, but "
                f"data.image_size is {image_size[0]}x{image_size[1]}: take another model, or "
                "resize the images"
            )
        features = nn.Sequential(
            *_convolution(n_channels, width, nn.MaxPool2d(2)), nn.Dropout(dropout),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width, nn.MaxPool2d(2)), nn.Dropout(dropout),
            *_convolution(2 * width, 4 * width),
            *_convolution(4 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout),
        )  # fmt: skip
        self.features = features.to(memory_format=torch.channels_last)  # faster on CPUs
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(4 * width, n_classes))

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        return self.classifier(self.features(images))


def _convolution(n_inputs: int, n_outputs: int, *pooling: nn.Module) -> list[nn.Module]:
    return [
        nn.Conv2d(n_inputs, n_outputs, kernel_size=3, padding=1, bias=False),
        *pooling,  # here, as it leaves the others a quarter to do
        nn.BatchNorm2d(n_outputs),
        nn.ReLU(inplace=True),
    ]

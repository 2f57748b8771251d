"""Augmentation changes each image in its own way, within bounds, and depends on the seed."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2.functional import elastic as reference

from hydrasweep import UserError
from mnist.augmentation import RandomAffine, RandomElastic, smoothing


def affine(**settings):
    return RandomAffine(**{"degrees": 0, "translate": 0, "scale": 0, "shear": 0, **settings})


def crosses(n):
    """The same 28x28 image ``n`` times: a centered cross with a longer right arm."""
    images = torch.zeros(n, 1, 28, 28)
    images[:, :, 13:15, 6:26] = 255.0
    images[:, :, 6:22, 13:15] = 255.0
    return images


def centres(images):
    """The center of mass of each image, (n, 2): down and right in pixels."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    places = torch.arange(28.0)
    return torch.stack([weights.sum(2) @ places, weights.sum(1) @ places], dim=1)


def test_zero_settings_change_nothing():
    images = torch.rand(4, 3, 28, 20) * 255
    torch.testing.assert_close(affine()(images), images, rtol=0, atol=1e-2)


def test_each_image_changes_in_its_own_way_that_depends_on_the_seed():
    augment = RandomAffine(degrees=10, translate=0.07, scale=0.1, shear=8)
    torch.manual_seed(0)
    first = augment(crosses(50))
    assert first.shape == (50, 1, 28, 28)
    assert len({image.numpy().tobytes() for image in first}) == 50
    torch.manual_seed(0)
    assert torch.equal(augment(crosses(50)), first)
    assert not torch.equal(augment(crosses(50)), first)


def test_shift_goes_in_all_directions_up_to_its_share_of_the_image():
    moved = centres(affine(translate=0.05)(crosses(500))) - centres(crosses(500))
    assert moved.abs().max() <= 0.05 * 28 + 0.05
    assert (moved.amax(0) > 0.04 * 28).all()
    assert (moved.amin(0) < -0.04 * 28).all()


def test_scale_grows_and_shrinks_up_to_its_share():
    squares = torch.zeros(500, 1, 28, 28)
    squares[:, :, 7:21, 7:21] = 1
    widths = affine(scale=0.1)(squares).sum((1, 2, 3)).sqrt() / 14
    assert 0.89 < widths.min() < 0.92
    assert 1.08 < widths.max() < 1.11


def test_rotation_and_shear_turn_both_ways_about_the_center():
    for settings in ({"degrees": 10}, {"shear": 10}):
        turned = affine(**settings)(crosses(500))
        # The new places of the ends of the horizontal arm, or of the vertical one.
        right = centres(turned * (torch.arange(28) > 20))[:, 0] - 13.5
        upper = centres(turned * (torch.arange(28) < 9)[:, None])[:, 1] - 13.5
        bent = torch.stack([right, upper]).abs().amax(0)
        assert 1 < bent.max() < 2.5
        assert min(right.min() * right.max(), upper.min() * upper.max()) < -1


def test_displacement_equals_torchvisions():
    images = torch.rand(3, 2, 28, 20) * 255
    torch.manual_seed(0)
    changed = RandomElastic(alpha=30, sigma=3)(images)
    torch.manual_seed(0)
    noise = torch.rand(3, 2, 28, 20) * 2 - 1
    for image, own, result in zip(images, noise, changed, strict=True):
        pixels = [smoothing(28, 3.0) @ part @ smoothing(20, 3.0).T * 30 for part in own]
        shares = torch.stack([pixels[0] * 2 / 20, pixels[1] * 2 / 28], dim=-1)[None]
        torch.testing.assert_close(reference(image, shares), result, rtol=0, atol=1e-2)


def test_displacement_is_smooth_and_as_strong_as_alpha():
    torch.manual_seed(0)
    ramp = torch.arange(64.0).expand(400, 1, 64, 64)  # a pixel's value is its position
    moved = (RandomElastic(alpha=34, sigma=4)(ramp) - ramp)[:, 0, 24:40, 24:40]
    # A Gaussian reduces the variance of the noise, 1/3, by the factor 1 / (4 pi sigma^2).
    assert moved.std() == pytest.approx(34 * (1 / 3 / (4 * torch.pi * 16)) ** 0.5, rel=0.1)
    steps = (moved[:, :, 1:] - moved[:, :, :-1]).std()
    assert steps < 0.3 * moved.std()


def test_elastic_change_without_strength_equals_the_affine_one():
    affine_settings = {"degrees": 10, "translate": 0.07, "scale": 0.1, "shear": 8}
    images = crosses(20)
    torch.manual_seed(0)
    torch.rand(20, 2, 28, 28)  # the displacement is drawn first
    expected = RandomAffine(**affine_settings)(images)
    torch.manual_seed(0)
    elastic = RandomElastic(alpha=0, sigma=4, **affine_settings)(images)
    torch.testing.assert_close(elastic, expected, rtol=0, atol=1e-2)


def test_sigma_of_0_is_refused():
    with pytest.raises(UserError, match=r"augmentation\.sigma=0"):
        RandomElastic(alpha=1, sigma=0)


def test_affine_change_equals_torchs():
    images = torch.rand(3, 2, 28, 20) * 255
    torch.manual_seed(0)
    changed = RandomAffine(degrees=10, translate=0.07, scale=0.1, shear=8)(images)
    torch.manual_seed(0)
    angle, shear, size, right, down = torch.empty(5, 3).uniform_(-1, 1)
    angle, shear, size = angle * math.radians(10), shear * math.radians(8), 1 + size * 0.1
    for i, image in enumerate(images):
        turn = (
            torch.tensor([[angle[i].cos(), -angle[i].sin()], [angle[i].sin(), angle[i].cos()]])
            / size[i]
        )
        lean = torch.tensor([[1, shear[i].tan()], [0, 1]])
        shift = torch.tensor([[right[i]], [down[i]]]) * 0.07 * 2
        theta = torch.cat([turn @ lean, shift], dim=1)[None]
        grid = F.affine_grid(theta, [1, 2, 28, 20], align_corners=False)
        expected = F.grid_sample(image[None], grid, align_corners=False)[0]
        torch.testing.assert_close(changed[i], expected, rtol=0, atol=1e-2)

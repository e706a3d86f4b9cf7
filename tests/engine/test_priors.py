"""Image priors and data densification equal their formulas, in value and gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from engine.matching.diversity import densification
from engine.matching.priors import mean_norm, total_variation


def random_images(count, side=4, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestTotalVariation:
    def test_a_hand_computed_image(self):
        image = torch.tensor([[0.0, 3.0], [4.0, 0.0]]).expand(1, 1, 2, 2)
        # right (3, -4): 5; below (4, -3): 5; diagonals 0 and 4 - 3 = 1.
        assert float(total_variation(image)) == pytest.approx(11.0)

    def test_norms_are_over_a_groups_images_together(self):
        images = random_images(4)
        torch.testing.assert_close(total_variation(images, groups=2), total_variation(images[:2]) + total_variation(images[2:]))

    def test_gradcheck(self):
        assert torch.autograd.gradcheck(total_variation, (random_images(2).requires_grad_(),))


class TestMeanNorm:
    def test_it_averages_the_norms_of_images_and_sums_groups(self):
        images = torch.zeros(2, 3, 2, 2)
        images[0, 0, 0] = torch.tensor([3.0, 4.0])
        images[1, 2, 1, 1] = 1.0
        assert float(mean_norm(images)) == pytest.approx(3.0)
        assert float(mean_norm(images, groups=2)) == pytest.approx(6.0)


def plain_densification(images, labels, tau, normalise):
    total = torch.zeros((), dtype=images.dtype)
    for label in labels.unique():
        rows = F.adaptive_avg_pool2d(images[labels == label], 32).flatten(1)
        eigenvalues = torch.linalg.svdvals(rows) ** 2
        if normalise:
            eigenvalues = eigenvalues / eigenvalues.mean()
        p, q = (eigenvalues.detach() / tau).softmax(0), eigenvalues.softmax(0)
        total = total + (p * (p.log() - q.log())).sum()
    return total


class TestDensification:
    @pytest.mark.parametrize("normalise", [False, True])
    def test_it_sums_the_classes_divergences(self, normalise):
        # Labels out of order, two classes of two and one of three: pooled from 40 to 32 pixels, small enough not to saturate.
        images, labels = random_images(7, side=40) * 0.02, torch.tensor([2, 0, 1, 0, 2, 1, 1])
        ours = densification(images.requires_grad_(), labels, tau=4.0, normalise=normalise)
        expected = plain_densification(images, labels, 4.0, normalise)
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
        for value, reference in zip(torch.autograd.grad(ours, images), torch.autograd.grad(expected, images), strict=True):
            torch.testing.assert_close(value, reference, rtol=1e-7, atol=1e-12)

    def test_two_orthogonal_images_by_hand(self):
        images = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
        images[0, 0, 0, 0], images[1, 1, 1, 1] = 2.0, 1.0
        # Eigenvalues 4 and 1: softmax of (1, 1/4) against softmax of (4, 1).
        p = 1 / (1 + math.exp(-0.75))
        q = 1 / (1 + math.exp(-3.0))
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert float(densification(images, torch.zeros(2, dtype=torch.int64), tau=4.0)) == pytest.approx(expected)

    def test_equal_images_with_repeated_eigenvalues_have_a_finite_gradient(self):
        images = random_images(1, side=32).repeat(4, 1, 1, 1).requires_grad_()
        densification(images, torch.zeros(4, dtype=torch.int64), normalise=True).backward()
        assert images.grad.isfinite().all()
        assert images.grad.any()

    def test_single_images_add_nothing(self):
        assert float(densification(random_images(3), torch.arange(3))) == 0.0

    def test_autocast_does_not_touch_it(self):
        images, labels = random_images(4, side=32).float(), torch.tensor([0, 0, 1, 1])
        exact = densification(images, labels, normalise=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(densification(images, labels, normalise=True), exact)

"""Flatness regularisation: the moving average of the images, the losses against it, and the sharpness-aware step."""

import math

import pytest
import torch
import torch.nn.functional as F

from engine.matching.flatness import ema_logits_loss, sam_perturbation, stat_ema_loss, update_ema
from engine.matching.moments import Segment


def logits(seed, count=4, classes=3):
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestAverageOfTheImages:
    def test_it_moves_by_one_minus_beta(self):
        ema, images = torch.full((1, 3, 2, 2), 1.0), torch.full((1, 3, 2, 2), 5.0, requires_grad=True)
        update_ema(ema, images, beta=0.75)
        assert ema.eq(2.0).all()
        assert not ema.requires_grad


class TestLogits:
    def test_two_classes_by_hand(self):
        # tau = 2 halves the logits: teacher (1/2, 1/2), student (3/4, 1/4).
        student = torch.tensor([[2 * math.log(3.0), 0.0]])
        loss = ema_logits_loss(student, torch.zeros(1, 2), tau=2.0)
        assert float(loss) == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))

    def test_it_is_the_divergence_of_the_student_from_the_average_summed_over_groups(self):
        student, teacher = logits(0), logits(1)
        p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
        by_image = (p * (p / q).log()).sum(1)
        torch.testing.assert_close(ema_logits_loss(student, teacher), by_image.mean())
        torch.testing.assert_close(ema_logits_loss(student, teacher, groups=2), by_image[:2].mean() + by_image[2:].mean())
        torch.testing.assert_close(ema_logits_loss(student, teacher, reduction="mean"), by_image.mean() / 3)

    def test_only_the_present_images_get_a_gradient(self):
        student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
        assert torch.autograd.gradcheck(lambda values: ema_logits_loss(values, teacher.detach()), (student,))
        ema_logits_loss(student, teacher).backward()
        assert teacher.grad is None

    def test_half_precision_logits_are_compared_in_float32(self):
        loss = ema_logits_loss(logits(0).bfloat16(), logits(1).bfloat16())
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), ema_logits_loss(logits(0), logits(1)), rtol=3e-2, atol=0)


class TestStatistics:
    SEGMENTS = (Segment("stem", "conv", "channel", 2), Segment("stem", "conv", "tile", 1), Segment("norm", "bn", "channel", 2))

    def test_it_is_the_weighted_sum_of_norms_by_hand(self):
        ema = torch.zeros(1, 2, 5)
        moments = torch.tensor([[[3.0, 4.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 6.0, 8.0]]])
        # Stem means 5 and 1, ten times; norm mean 2 and variance 10.
        assert float(stat_ema_loss(moments, ema, self.SEGMENTS)) == pytest.approx(10 * (5 + 1) + 2 + 10)
        assert float(stat_ema_loss(moments, ema, self.SEGMENTS, 1.0, "l2_squared")) == pytest.approx(25 + 1 + 4 + 100)

    def test_groups_add_up_and_the_average_gets_no_gradient(self):
        generator = torch.Generator().manual_seed(0)
        moments, ema = (torch.rand(2, 2, 5, generator=generator, requires_grad=True) for _ in range(2))
        together = stat_ema_loss(moments, ema, self.SEGMENTS)
        torch.testing.assert_close(together, sum(stat_ema_loss(moments[g : g + 1], ema[g : g + 1], self.SEGMENTS) for g in (0, 1)))
        together.backward()
        assert moments.grad.any() and ema.grad is None

    def test_at_the_start_where_both_are_equal_nothing_pulls(self):
        moments = torch.rand(1, 2, 5, requires_grad=True)
        stat_ema_loss(moments, moments, self.SEGMENTS).backward()
        assert not moments.grad.any()


class TestSharpnessAwareStep:
    def test_each_group_moves_by_rho_along_its_gradient(self):
        images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
        gradient = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 100
        moved = sam_perturbation(images, gradient, rho=0.05, groups=2)
        assert not moved.requires_grad
        for group in (slice(0, 2), slice(2, 4)):
            step = (moved - images.detach())[group]
            assert float(step.norm()) == pytest.approx(0.05, rel=1e-4)
            assert float(F.cosine_similarity(step.flatten(), gradient[group].flatten(), dim=0)) == pytest.approx(1.0, abs=1e-4)

    def test_without_a_gradient_nothing_moves(self):
        images = torch.randn(2, 3, 2, 2)
        assert torch.equal(sam_perturbation(images, torch.zeros_like(images), rho=0.05), images)

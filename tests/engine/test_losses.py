"""What a student is trained with, against numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy, pearsonr
from small_runs import flat_settings

from engine.stages import losses

DRAWS = np.random.default_rng(7)
STUDENT, TEACHER = DRAWS.normal(0, 2, (6, 5)), DRAWS.normal(0, 2, (6, 5))
LABELS, PARTNERS = np.array([0, 1, 2, 3, 4, 0]), np.array([1, 1, 0, 4, 2, 3])
SHARE = np.array([1.0, 0.25, 0.5, 0.75, 0.0, 0.9])


def tensors():
    return torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(LABELS), torch.tensor(PARTNERS), torch.tensor(SHARE)


def cross_entropies(labels):
    return -log_softmax(STUDENT, axis=1)[np.arange(6), labels]


class TestMeanSquaredError:
    def test_it_is_the_mean_over_images_and_classes_plus_weighted_cross_entropy_of_the_own_class(self):
        student, teacher, labels, partners, share = tensors()
        value = losses.mse_ce(student, teacher, labels, ce_weight=0.1, partner_labels=partners, share=share, ce_target="base")
        assert value.item() == pytest.approx(((STUDENT - TEACHER) ** 2).mean() + 0.1 * cross_entropies(LABELS).mean())

    def test_mixed_targets_count_both_classes_by_their_share(self):
        student, teacher, labels, partners, share = tensors()
        value = losses.mse_ce(student, teacher, labels, ce_weight=0.1, partner_labels=partners, share=share, ce_target="mixed")
        mixed = SHARE * cross_entropies(LABELS) + (1 - SHARE) * cross_entropies(PARTNERS)
        assert value.item() == pytest.approx(((STUDENT - TEACHER) ** 2).mean() + 0.1 * mixed.mean())


class TestKullbackLeibler:
    def expected(self, temperature):
        pairs = zip(softmax(TEACHER / temperature, axis=1), softmax(STUDENT / temperature, axis=1), strict=True)
        return np.mean([entropy(teacher, student) for teacher, student in pairs])

    @pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
    def test_it_is_teacher_against_student_averaged_over_the_batch_without_temperature_squared(self, temperature):
        value = losses.kl(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature=temperature, squared=False)
        assert value.item() == pytest.approx(self.expected(temperature))

    def test_the_squared_temperature_multiplies_it_on_request(self):
        value = losses.kl(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature=4.0, squared=True)
        assert value.item() == pytest.approx(16 * self.expected(4.0))


class TestDist:
    def expected(self, temperature):
        p, q = softmax(STUDENT / temperature, axis=1), softmax(TEACHER / temperature, axis=1)
        between = 1 - np.mean([pearsonr(p[row], q[row]).statistic for row in range(6)])
        within = 1 - np.mean([pearsonr(p[:, column], q[:, column]).statistic for column in range(5)])
        return temperature**2 * (between + within)

    @pytest.mark.parametrize("temperature", [1.0, 20.0])
    def test_it_is_one_minus_pearson_between_and_within_classes(self, temperature):
        value = losses.dist(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature=temperature)
        assert value.item() == pytest.approx(self.expected(temperature), rel=1e-6)

    def test_it_sees_no_difference_in_scale_and_shift_of_a_probability(self):
        p = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])
        assert losses.correlation(p, 3 * p + 1).tolist() == pytest.approx([1, 1])
        assert losses.correlation(p, -p).tolist() == pytest.approx([-1, -1])


def test_hard_labels_of_a_mixed_view_are_those_of_both_its_images_by_their_share():
    student, _, labels, partners, share = tensors()
    expected = np.mean(SHARE * cross_entropies(LABELS) + (1 - SHARE) * cross_entropies(PARTNERS))
    assert losses.hard(student, labels, partners, share).item() == pytest.approx(expected)


class TestTheProjectsLoss:
    def value(self, **changes):
        student, teacher, labels, partners, share = tensors()
        settings = flat_settings(**changes)
        return losses.student_loss(settings, student.float(), teacher.float(), labels, partners, share.float()).item()

    def test_every_name_means_its_function_with_its_settings(self):
        square = ((STUDENT - TEACHER) ** 2).mean()
        assert self.value(evaluate__loss="mse_ce", evaluate__ce_weight=0.0) == pytest.approx(square, rel=1e-5)
        assert self.value(evaluate__loss="mse_ce", evaluate__ce_weight=1.0) == pytest.approx(
            square + cross_entropies(LABELS).mean(), rel=1e-5
        )
        plain = self.value(evaluate__loss="kl", evaluate__temperature=3.0, evaluate__temperature_squared=False)
        assert self.value(evaluate__loss="kl", evaluate__temperature=3.0, evaluate__temperature_squared=True) == pytest.approx(9 * plain)
        assert plain == pytest.approx(TestKullbackLeibler().expected(3.0), rel=1e-5)
        assert self.value(evaluate__loss="dist", evaluate__temperature=3.0) == pytest.approx(TestDist().expected(3.0), rel=1e-4)

    def test_hard_labels_need_no_teacher(self):
        student, _, labels, partners, share = tensors()
        value = losses.student_loss(flat_settings(evaluate__loss="ce"), student, None, labels, partners, share.float())
        assert value.item() == pytest.approx(losses.hard(student, labels, partners, share).item(), rel=1e-5)

    def test_logits_of_half_precision_are_compared_in_float32(self):
        student, teacher, labels, partners, share = tensors()
        half = student.bfloat16()
        settings = flat_settings(evaluate__loss="mse_ce")
        value = losses.student_loss(settings, half, teacher.float(), labels, partners, share.float())
        assert value.dtype == torch.float32
        exact = losses.student_loss(settings, half.double().float(), teacher.float(), labels, partners, share.float())
        assert value.item() == exact.item()

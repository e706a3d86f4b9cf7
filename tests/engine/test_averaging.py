"""The averaged student: weights by hand, and batch-norm statistics that fit them."""

import copy

import pytest
import torch
from torch import nn

from engine.stages.averaging import capped_momentum, copy_batchnorm, recalibrate, update_average


def network():
    return nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(2 * 16, 2))


class TestMovingAverage:
    def test_three_steps_by_hand(self):
        model = network()
        average = copy.deepcopy(model)
        start, expected = model[0].weight.detach().clone(), model[0].weight.detach().clone()
        for step in (1.0, 2.0, 4.0):
            with torch.no_grad():
                model[0].weight.copy_(start + step)
            update_average(average, model, 0.9)
            expected = 0.9 * expected + 0.1 * (start + step)
        torch.testing.assert_close(average[0].weight.detach(), expected)
        torch.testing.assert_close(average[0].weight.detach(), start + (0.81 * 0.1 * 1 + 0.9 * 0.1 * 2 + 0.1 * 4))

    def test_running_statistics_are_averaged_and_counters_copied(self):
        model = network()
        average = copy.deepcopy(model)
        model[1].running_mean += 2
        model[1].num_batches_tracked += 7
        update_average(average, model, 0.75)
        assert average[1].running_mean.tolist() == pytest.approx([0.5, 0.5])
        assert average[1].num_batches_tracked == 7

    def test_momentum_zero_follows_the_model(self):
        model, average = network(), network()
        update_average(average, model, 0.0)
        assert all(torch.equal(kept, fresh) for kept, fresh in zip(average.parameters(), model.parameters(), strict=True))

    @pytest.mark.parametrize(
        ("momentum", "updates", "expected"), [(0.99, 10_000, 0.99), (0.99, 1000, 0.99), (0.999, 1000, 0.99), (0.99, 100, 0.9), (0.99, 5, 0)]
    )
    def test_the_average_forgets_the_initial_weights_within_the_training(self, momentum, updates, expected):
        assert capped_momentum(momentum, updates) == pytest.approx(expected)


class TestBatchNorm:
    def batches(self):
        draws = torch.Generator().manual_seed(0)
        return [3 + 2 * torch.randn(size, 3, 4, 4, generator=draws) for size in (8, 8, 5)]

    def test_recalibrated_statistics_are_the_plain_average_over_batches(self):
        model = network()
        with torch.no_grad():
            model[1].running_mean.fill_(100)
        recalibrate(model, self.batches())
        maps = [torch.einsum("oi,bihw->bohw", model[0].weight[:, :, 0, 0], batch) for batch in self.batches()]
        mean = torch.stack([each.mean((0, 2, 3)) for each in maps]).mean(0)
        variance = torch.stack([each.movedim(1, 0).flatten(1).var(1, unbiased=True) for each in maps]).mean(0)
        torch.testing.assert_close(model[1].running_mean, mean.detach())
        torch.testing.assert_close(model[1].running_var, variance.detach())

    def test_a_second_layer_sees_what_the_first_normalises_by_the_batch(self):
        model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
        recalibrate(model, self.batches())
        assert model[1].running_mean.abs().max() < 1e-5

    def test_dropout_stays_off(self):
        model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
        recalibrate(model, [torch.ones(4, 3, 4, 4)])
        assert model[1].running_mean.tolist() == [1, 1, 1]

    def test_weights_modes_and_momenta_are_left_as_they_were(self):
        model = network().train()
        model[1].momentum = 0.3
        weights = [value.clone() for value in model.parameters()]
        recalibrate(model, self.batches())
        assert model[1].momentum == 0.3 and all(module.training for module in model.modules())
        assert all(torch.equal(before, after) for before, after in zip(weights, model.parameters(), strict=True))

    def test_a_network_without_batch_norm_is_not_run_at_all(self):
        def never():
            raise AssertionError("asked for a batch")
            yield

        recalibrate(nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(3, 3)), never())

    def test_the_students_own_statistics_can_be_used_instead(self):
        model, average = network(), network()
        model[1].running_mean += 5
        weights = average[0].weight.clone()
        copy_batchnorm(average, model)
        assert torch.equal(average[1].running_mean, model[1].running_mean)
        assert torch.equal(average[0].weight, weights)

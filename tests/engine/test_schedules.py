"""Learning-rate schedules: their values at the places the papers name."""

import math

import pytest
import torch

from engine.stages import schedules


class TestCosine:
    def test_plain_cosine_starts_at_one_passes_half_in_the_middle_and_nears_zero(self):
        factors = schedules.cosine(100)
        assert factors[0] == 1
        assert factors[50] == pytest.approx(0.5)
        assert factors[25] == pytest.approx((1 + math.sqrt(0.5)) / 2)
        assert factors[99] == pytest.approx(2.467e-4, rel=1e-3)  # 1/2 (1 - cos(pi / 100))

    def test_zeta_two_walks_half_of_it_and_ends_at_one_half(self):
        factors = schedules.cosine(100, zeta=2)
        assert factors[0] == 1
        assert factors[50] == pytest.approx((1 + math.sqrt(0.5)) / 2)
        assert factors[99] == pytest.approx(0.5 + 0.5 * math.sin(math.pi / 200))
        assert len(factors) == 100


class TestSsrs:
    def test_it_drops_sixfold_after_five_sixths(self):
        factors = schedules.ssrs(6000, zeta=2)
        assert factors[5000] == pytest.approx(0.629, abs=5e-4)
        assert factors[5001] == pytest.approx(0.629410 / 6, rel=2e-3)
        assert 0.103 < factors[5001] < 0.105
        assert factors[5000] / factors[5001] == pytest.approx(6, rel=2e-3)

    def test_it_is_the_smoothed_cosine_before_and_falls_linearly_to_zero_after(self):
        factors = schedules.ssrs(300, zeta=2)
        assert factors[:251] == schedules.cosine(300, 2)[:251]
        steps = {round(before - after, 12) for before, after in zip(factors[251:], factors[252:], strict=False)}
        assert len(steps) == 1
        assert factors[299] == pytest.approx(steps.pop())  # one more step would be zero

    def test_the_turn_follows_zeta(self):
        assert schedules.ssrs(600, zeta=1)[500] == pytest.approx((1 + math.cos(5 * math.pi / 6)) / 2)
        assert schedules.ssrs(600, zeta=1)[501] == pytest.approx((1 + math.cos(5 * math.pi / 6)) / 2 * 99 / 600)


def test_warm_up_is_torchs_linear_rise_followed_by_its_cosine():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[5])
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    assert schedules.warm_up(5) + schedules.cosine(15) == pytest.approx(expected)
    assert schedules.warm_up(0) == []


def test_linear_falls_from_one_by_equal_steps():
    assert schedules.linear(4) == [1, 0.75, 0.5, 0.25]


def test_linear_zeta_two_ends_at_one_half():
    assert schedules.linear_zeta(4, 2) == [1, 0.875, 0.75, 0.625]


def test_multistep_halves_at_800_900_and_950_of_1000():
    factors = schedules.multistep(1000, [0.8, 0.9, 0.95], 0.5)
    changes = {epoch: factors[epoch] for epoch in range(1, 1000) if factors[epoch] != factors[epoch - 1]}
    assert changes == {800: 0.5, 900: 0.25, 950: 0.125}
    assert factors[0] == 1


class TestOneCycle:
    def test_it_rises_over_a_quarter_of_the_steps_and_falls_over_the_rest(self):
        factors = schedules.one_cycle(8)
        assert factors == pytest.approx([0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])

    def test_its_peak_is_one_and_no_step_is_lost_to_a_rate_of_zero(self):
        for steps in range(1, 50):
            factors = schedules.one_cycle(steps)
            assert len(factors) == steps and max(factors) == 1 and min(factors) > 0


class TestAlrs:
    def test_the_first_epoch_changes_nothing(self):
        assert schedules.alrs_factor(None, 1.0, gamma=0.9) == 1

    @pytest.mark.parametrize(
        ("previous", "current", "stalled"),
        [
            (0.5, 0.495, True),  # 0.005, 1 %
            (0.5, 0.505, True),  # a small rise is a stall as well
            (0.5, 0.485, False),  # 0.015, but 3 %
            (10.0, 9.9, False),  # 1 %, but 0.1
            (1.0, 0.97, False),
        ],
    )
    def test_it_slows_down_when_the_loss_changes_little_both_in_itself_and_relatively(self, previous, current, stalled):
        assert schedules.alrs_factor(previous, current, gamma=0.9) == (0.9 if stalled else 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", schedules.cosine(10, 1.5)),
        ("ssrs", schedules.ssrs(10, 1.5)),
        ("linear", schedules.linear(10)),
        ("linear_zeta", schedules.linear_zeta(10, 1.5)),
        ("multistep", [1] * 5 + [0.1] * 5),
        ("alrs", [1] * 10),
        ("constant", [1] * 10),
    ],
)
def test_every_name_of_a_project_gives_its_schedule(name, expected):
    assert schedules.of_project(name, 10, zeta=1.5, milestones=[0.5], gamma=0.1) == pytest.approx(expected)

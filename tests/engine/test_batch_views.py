"""What observers are shown of a batch under optimisation: crops, mirrors and shifts of each iteration."""

import pytest
import torch
from small_runs import flat_settings
from torchvision.transforms.v2 import functional as vision

from engine.compute.seeding import generator
from engine.data import augment
from engine.stages.batch_views import BatchViews, crop_floor


def views(inputs, groups=2, size=3, number=0, seed=0, **changes):
    return BatchViews(flat_settings(**({"synthesise__iterations": 10} | changes)), inputs, groups, size, seed, number)


def batch(count=6, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


class TestCropFloor:
    @pytest.mark.parametrize(
        ("mode", "iteration", "expected"),
        [
            ("fixed", 0, 0.08),
            ("curriculum_step", 0, 1.0),
            ("curriculum_step", 499, 1.0),
            ("curriculum_step", 500, 0.08),
            ("curriculum_linear", 0, 1.0),
            ("curriculum_linear", 250, 0.54),  # half way: 0.08 + 0.92 / 2
            ("curriculum_linear", 400, 0.264),
            ("curriculum_linear", 500, 0.08),
            ("curriculum_cosine", 0, 1.0),
            ("curriculum_cosine", 125, 0.8652691193458119),  # 0.08 + 0.92 (1 + cos(pi / 4)) / 2
            ("curriculum_cosine", 250, 0.54),
            ("curriculum_cosine", 999, 0.08),
        ],
    )
    def test_it_goes_from_the_whole_image_down_to_the_lowest_at_the_milestone(self, mode, iteration, expected):
        assert crop_floor(mode, iteration, 1000, low=0.08, milestone=0.5) == pytest.approx(expected)

    def test_a_milestone_of_one_uses_all_iterations_and_of_zero_none(self):
        assert crop_floor("curriculum_linear", 999, 1000, low=0.08, milestone=1.0) == pytest.approx(0.08 + 0.92 / 1000)
        assert crop_floor("curriculum_cosine", 0, 1000, low=0.08, milestone=0.0) == 0.08


def test_nothing_asked_for_shows_the_images_themselves(small_inputs):
    shown = views(small_inputs, augment__crop_mode="none", augment__flip=False).of(batch(), 0)
    assert torch.equal(shown, batch())


class TestCrops:
    def crops_of(self, inputs, iterations=range(10), **changes):
        """Boxes (iterations, images, 4) top, left, bottom, right, read off from images of coordinates."""
        rows, columns = torch.arange(16.0).view(16, 1), torch.arange(16.0).view(1, 16)
        images = torch.stack([rows.expand(16, 16), columns.expand(16, 16), torch.zeros(16, 16)]).expand(6, 3, 16, 16)
        drawn = views(inputs, augment__flip=False, **changes)
        shown = torch.stack([drawn.of(images, iteration) for iteration in iterations])
        return torch.cat([shown[:, :, :2].amin((3, 4)), shown[:, :, :2].amax((3, 4))], -1)

    def test_each_statistics_batch_has_one_crop_of_its_own(self, small_inputs):
        boxes = self.crops_of(small_inputs, augment__crop_scale=[0.1, 0.6])
        assert torch.equal(boxes[:, 0:1].expand(-1, 3, -1), boxes[:, :3]) and torch.equal(boxes[:, 3:4].expand(-1, 3, -1), boxes[:, 3:])
        assert (boxes[:, 0] != boxes[:, 3]).any(1).all()

    def test_each_image_has_its_own_on_request(self, small_inputs):
        boxes = self.crops_of(small_inputs, augment__per_image=True, augment__crop_scale=[0.1, 0.6])
        assert all(len({tuple(box) for box in of_iteration.tolist()}) == 6 for of_iteration in boxes)

    def test_every_iteration_draws_anew_and_again_the_same(self, small_inputs):
        boxes = self.crops_of(small_inputs, augment__crop_scale=[0.1, 0.6])
        assert len({tuple(box) for box in boxes[:, 0].tolist()}) >= 9
        assert torch.equal(boxes[4:], self.crops_of(small_inputs, range(4, 10), augment__crop_scale=[0.1, 0.6]))

    @pytest.mark.parametrize("change", [{"seed": 1}, {"number": 1}])
    def test_batches_and_seeds_have_crops_of_their_own(self, small_inputs, change):
        scale = {"augment__crop_scale": [0.1, 0.6]}
        assert not torch.equal(self.crops_of(small_inputs, **scale), self.crops_of(small_inputs, **scale, **change))

    def test_areas_stay_within_the_scale(self, small_inputs):
        boxes = self.crops_of(small_inputs, range(100), augment__crop_scale=[0.3, 0.5])[:, [0, 3]].flatten(0, 1)
        area = (boxes[:, 2] + 1 - boxes[:, 0]) * (boxes[:, 3] + 1 - boxes[:, 1]) / 256
        assert 0.25 < area.min() < 0.36 and 0.44 < area.max() < 0.56

    def test_a_curriculum_begins_with_whole_images_and_ends_with_small_crops(self, small_inputs):
        changes = {"augment__crop_mode": "curriculum_step", "augment__crop_scale": [0.1, 1.0], "augment__milestone": 0.5}
        boxes = self.crops_of(small_inputs, **changes)
        assert torch.equal(boxes[:5], torch.tensor([0.0, 0.0, 15.0, 15.0]).expand(5, 6, 4))
        assert (boxes[5:, 0] != boxes[:1, 0]).any(1).all()

    def test_a_crop_is_that_of_torchvision(self, small_inputs):
        drawn = views(small_inputs, 1, 6, augment__flip=False, augment__crop_scale=[0.2, 0.5])
        box = augment.draw_crops(1, 16, 16, scale=(0.2, 0.5), generator=generator(0, "view", 0, 3))[0].tolist()
        expected = vision.resized_crop(batch(), *box, size=[16, 16], antialias=True)
        torch.testing.assert_close(drawn.of(batch(), 3), expected, rtol=1e-4, atol=1e-5)

    def test_a_second_set_of_views_differs_from_the_first(self, small_inputs):
        drawn = views(small_inputs)
        assert not torch.equal(drawn.of(batch(), 0), drawn.of(batch(), 0, second=True))

    def test_padded_crops_shift_the_images_of_a_statistics_batch_alike_over_black(self, small_inputs):
        drawn = views(small_inputs, augment__crop_mode="padded", augment__padding=3, augment__flip=False)
        black = (-small_inputs.mean / small_inputs.std)[0]
        for iteration in range(5):
            shown = drawn.of(batch(), iteration)
            for group in (slice(0, 3), slice(3, 6)):
                padded = black.expand(3, 3, 22, 22).clone()
                padded[:, :, 3:19, 3:19] = batch()[group]
                windows = [padded[:, :, top : top + 16, left : left + 16] for top in range(7) for left in range(7)]
                assert any(torch.equal(shown[group], window) for window in windows)


class TestMirror:
    def test_a_statistics_batch_is_mirrored_as_a_whole(self, small_inputs):
        drawn = views(small_inputs, augment__crop_mode="none")
        found = set()
        for iteration in range(20):
            shown = drawn.of(batch(), iteration)
            for group in (slice(0, 3), slice(3, 6)):
                mirrored = torch.equal(shown[group], batch()[group].flip(-1))
                assert mirrored or torch.equal(shown[group], batch()[group])
                found.add(mirrored)
        assert found == {True, False}

    def test_each_image_is_mirrored_by_itself_on_request(self, small_inputs):
        shown = [views(small_inputs, augment__crop_mode="none", augment__per_image=True).of(batch(), step) for step in range(20)]
        mirrored = torch.tensor([[torch.equal(one, other.flip(-1)) for one, other in zip(each, batch(), strict=True)] for each in shown])
        assert 0.3 < mirrored.float().mean() < 0.7
        assert not torch.equal(mirrored[:, 0], mirrored[:, 1])

    def test_no_image_is_mirrored_where_the_dataset_forbids_it(self, small_inputs):
        drawn = views(small_inputs, augment__crop_mode="none", mirror=False)
        assert all(torch.equal(drawn.of(batch(), iteration), batch()) for iteration in range(20))


def test_a_roll_shifts_circularly_by_up_to_its_reach(small_inputs):
    drawn = views(small_inputs, augment__crop_mode="none", augment__flip=False, augment__roll=2)
    shifts = [(down, right) for down in range(3) for right in range(3)]
    seen = set()
    for iteration in range(60):
        shown = drawn.of(batch(), iteration)
        matches = [shift for shift in shifts if torch.equal(shown[:3], batch()[:3].roll(shift, (2, 3)))]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == set(shifts)


@pytest.mark.parametrize("mode", ["fixed", "padded", "curriculum_cosine"])
@pytest.mark.parametrize("per_image", [False, True])
def test_gradients_reach_the_pixels_through_every_view(small_inputs, mode, per_image):
    drawn = views(small_inputs, augment__crop_mode=mode, augment__per_image=per_image, augment__roll=3)
    images = batch().requires_grad_(True)
    (gradient,) = torch.autograd.grad(drawn.of(images, 4).square().sum(), images)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_views_are_the_same_whether_or_not_a_gradient_is_asked_for(small_inputs):
    for per_image in (False, True):
        drawn = views(small_inputs, augment__per_image=per_image)
        torch.testing.assert_close(drawn.of(batch().requires_grad_(True), 4).detach(), drawn.of(batch(), 4), rtol=1e-4, atol=1e-5)

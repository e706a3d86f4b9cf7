"""Crops, flips, rolls and mixtures: against torchvision, against hand-computed values, and by gradcheck."""

import math

import pytest
import torch
import torchvision.transforms.v2.functional as torchvision_functional
from scipy.stats import kstest
from torch.autograd import gradcheck
from torchvision.transforms.v2 import RandomResizedCrop

from engine.data import augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, height, width, dtype=torch.float32, seed=0):
    return torch.randn(count, 3, height, width, generator=generator(seed), dtype=torch.float64).to(dtype)


class TestDrawCrops:
    def test_boxes_are_whole_numbers_inside_the_image(self):
        boxes = augment.draw_crops(5000, 20, 32, scale=(0.08, 1.0), generator=generator())
        top, left, height, width = boxes.unbind(1)
        assert boxes.dtype == torch.int64 and boxes.shape == (5000, 4)
        assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
        assert (top + height <= 20).all() and (left + width <= 32).all()
        assert (top + height == 20).any() and (left + width == 32).any() and (top == 0).any() and (left == 0).any()

    def test_area_is_uniform_in_scale_and_ratio_log_uniform_where_every_try_fits(self):
        height, width = (2000, 2000)
        boxes = augment.draw_crops(4000, height, width, scale=(0.1, 0.5), ratio=(0.8, 1.9), generator=generator(1))
        _, _, h, w = boxes.double().unbind(1)
        area = (h * w) / (height * width)
        assert kstest((area - 0.1) / 0.4, "uniform").pvalue > 0.01
        assert kstest(((w / h).log() - math.log(0.8)) / (math.log(1.9) - math.log(0.8)), "uniform").pvalue > 0.01

    def test_position_is_uniform_among_those_inside(self):
        top, left, h, w = augment.draw_crops(6000, 8, 8, scale=(0.25, 0.25), ratio=(1.0, 1.0), generator=generator(2)).unbind(1)
        assert (h == 4).all() and (w == 4).all()
        assert ((top.bincount(minlength=5) - 1200).abs() < 150).all() and ((left.bincount(minlength=5) - 1200).abs() < 150).all()

    def test_follows_torchvision_where_many_tries_do_not_fit(self):
        rule = RandomResizedCrop((32, 32), scale=(0.5, 1.0))
        torch.manual_seed(3)
        theirs = [rule.make_params([torch.zeros(3, 32, 32)]) for _ in range(2000)]
        ours = augment.draw_crops(20000, 32, 32, scale=(0.5, 1.0), generator=generator(4)).double()
        for column, key in enumerate(("top", "left", "height", "width")):
            expected = torch.tensor([float(params[key]) for params in theirs], dtype=torch.float64)
            assert ours[:, column].mean() == pytest.approx(expected.mean().item(), abs=0.35)
            assert ours[:, column].std() == pytest.approx(expected.std().item(), abs=0.3)

    @pytest.mark.parametrize(
        ("size", "box"),
        [
            ((10, 100), [0, 43, 10, 13]),  # too wide: 10 * 4/3 = 13.3 wide, (100 - 13) // 2 from the left
            ((100, 10), [43, 0, 13, 10]),  # too tall: 10 / (3/4) = 13.3 tall
        ],
    )
    def test_falls_back_to_the_central_crop_when_no_try_fits(self, size, box):
        boxes = augment.draw_crops(3, *size, scale=(0.9, 1.0), generator=generator())
        assert boxes.tolist() == [box] * 3

    def test_falls_back_to_the_whole_image_when_its_ratio_is_allowed(self):
        boxes = augment.draw_crops(2, 30, 32, scale=(4.0, 4.0), generator=generator())
        assert boxes.tolist() == [[0, 0, 30, 32]] * 2

    def test_the_same_generator_state_gives_the_same_boxes(self):
        first, second, third = (augment.draw_crops(9, 32, 32, scale=(0.08, 1.0), generator=generator(seed)) for seed in (5, 5, 6))
        assert torch.equal(first, second) and not torch.equal(first, third)


class TestResizedCrop:
    @pytest.mark.parametrize("antialias", [True, False])
    @pytest.mark.parametrize("differentiated", [True, False])
    @pytest.mark.parametrize("size", [(32, 32), (17, 24)])
    def test_equals_torchvision_image_by_image(self, size, differentiated, antialias):
        images = pictures(40, *size).requires_grad_(differentiated)
        boxes = augment.draw_crops(40, *size, scale=(0.01, 1.0), generator=generator())
        boxes[0] = torch.tensor([0, 0, *size])
        boxes[1] = torch.tensor([size[0] - 1, size[1] - 1, 1, 1])
        cropped = augment.resized_crop(images, boxes)
        for image, box, result in zip(images, boxes.tolist(), cropped, strict=True):
            expected = torchvision_functional.resized_crop(image, *box, size=list(size), antialias=antialias)
            torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("differentiated", [True, False])
    def test_one_box_serves_all_images(self, differentiated):
        images, box = pictures(4, 12, 10).requires_grad_(differentiated), torch.tensor([[2, 3, 7, 5]])
        torch.testing.assert_close(augment.resized_crop(images, box), augment.resized_crop(images, box.expand(4, 4)))

    def test_shared_box_equals_torchvision(self):
        images = pictures(5, 20, 32)
        for box in ([3, 5, 11, 20], [0, 0, 20, 32], [19, 31, 1, 1]):
            expected = torchvision_functional.resized_crop(images, *box, size=[20, 32], antialias=True)
            torch.testing.assert_close(augment.shared_resized_crop(images, torch.tensor(box)), expected, atol=1e-5, rtol=0)

    def test_gradients_are_right(self):
        images = pictures(3, 6, 5, torch.float64).requires_grad_()
        boxes = torch.tensor([[0, 0, 6, 5], [1, 2, 3, 2], [5, 4, 1, 1]])
        assert gradcheck(lambda x: augment.resized_crop(x, boxes), images)
        assert gradcheck(lambda x: augment.shared_resized_crop(x, boxes[1]), images)

    def test_channels_last_images_give_the_same_pixels(self):
        images, boxes = pictures(6, 16, 16), augment.draw_crops(6, 16, 16, scale=(0.2, 1.0), generator=generator())
        last = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(augment.resized_crop(last, boxes), augment.resized_crop(images, boxes))
        torch.testing.assert_close(augment.shared_resized_crop(last, boxes[0]), augment.shared_resized_crop(images, boxes[0]))

    @pytest.mark.parametrize("differentiated", [True, False])
    def test_bfloat16_images_are_the_float32_result_rounded_once(self, differentiated):
        images, boxes = pictures(6, 16, 16, torch.bfloat16), augment.draw_crops(6, 16, 16, scale=(0.2, 1.0), generator=generator())
        wide = images.float().requires_grad_(differentiated)
        images.requires_grad_(differentiated)
        assert torch.equal(augment.resized_crop(images, boxes), augment.resized_crop(wide, boxes).bfloat16())
        assert torch.equal(augment.shared_resized_crop(images, boxes[0]), augment.shared_resized_crop(wide, boxes[0]).bfloat16())

    @pytest.mark.parametrize("differentiated", [True, False])
    def test_autocast_does_not_coarsen_float32_images(self, differentiated):
        images = pictures(6, 16, 16).requires_grad_(differentiated)
        boxes = augment.draw_crops(6, 16, 16, scale=(0.2, 1.0), generator=generator())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cropped, shared = augment.resized_crop(images, boxes), augment.shared_resized_crop(images, boxes[0])
        assert torch.equal(cropped, augment.resized_crop(images, boxes))
        assert torch.equal(shared, augment.shared_resized_crop(images, boxes[0]))


class TestPaddedCrop:
    def test_hand_computed_corner_of_a_padded_image(self):
        images = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(1, 3, 3, 3)
        cropped = augment.padded_crop(images, torch.tensor([[0, 2]]), padding=1, fill=[-1.0, -2.0, -3.0])
        assert cropped[0, 0].tolist() == [[-1, -1, -1], [2, 3, -1], [5, 6, -1]]
        assert cropped[0, 2].tolist() == [[-3, -3, -3], [2, 3, -3], [5, 6, -3]]

    def test_equals_padding_with_black_before_normalising(self):
        pixels = torch.rand(5, 3, 8, 8, generator=generator())
        mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
        offsets = torch.tensor([[0, 0], [4, 4], [8, 8], [1, 7], [6, 2]])
        black = [-m / s for m, s in zip(mean, std, strict=True)]
        cropped = augment.padded_crop(torchvision_functional.normalize(pixels, mean, std), offsets, padding=4, fill=black)
        for image, (row, column), result in zip(pixels, offsets.tolist(), cropped, strict=True):
            window = torch.nn.functional.pad(image, (4, 4, 4, 4))[:, row : row + 8, column : column + 8]
            torch.testing.assert_close(result, torchvision_functional.normalize(window, mean, std))

    def test_offsets_are_uniform_over_every_place_the_crop_can_begin(self):
        offsets = augment.draw_offsets(9000, padding=1, generator=generator())
        counts = (offsets[:, 0] * 3 + offsets[:, 1]).bincount(minlength=9)
        assert counts.shape == (9,) and ((counts - 1000).abs() < 150).all()

    def test_gradients_are_right(self):
        images = pictures(2, 4, 5, torch.float64).requires_grad_()
        offsets = torch.tensor([[0, 3], [4, 1]])
        assert gradcheck(lambda x: augment.padded_crop(x, offsets, padding=2, fill=[0.1, 0.2, 0.3]), images)


class TestFlipAndRoll:
    def test_only_the_marked_images_are_mirrored(self):
        images = pictures(3, 4, 5)
        flipped = augment.flip(images, torch.tensor([True, False, True]))
        for index, marked in enumerate((True, False, True)):
            assert torch.equal(flipped[index], torchvision_functional.horizontal_flip(images[index]) if marked else images[index])

    def test_half_of_the_images_are_drawn_to_be_mirrored(self):
        assert augment.draw_flips(4000, generator=generator()).sum().item() == pytest.approx(2000, abs=130)

    def test_each_image_rolls_by_its_own_shift(self):
        images = pictures(4, 5, 6)
        shifts = torch.tensor([[1, 0], [-2, 3], [0, -7], [11, 32]])
        rolled = augment.roll(images, shifts[:, 0], shifts[:, 1])
        for image, shift, result in zip(images, shifts.tolist(), rolled, strict=True):
            assert torch.equal(result, torch.roll(image, shift, dims=(-2, -1)))

    def test_one_shift_and_one_flip_serve_all_images(self):
        images = pictures(3, 5, 6)
        assert torch.equal(augment.roll(images, torch.tensor([2]), torch.tensor([-1])), torch.roll(images, (2, -1), (2, 3)))
        assert torch.equal(augment.flip(images, torch.tensor([True])), images.flip(-1))

    def test_shifts_reach_both_ends_of_their_range(self):
        shifts = augment.draw_shifts(500, lowest=-4, highest=4, generator=generator())
        assert shifts.shape == (500, 2) and shifts.unique().tolist() == list(range(-4, 5))

    def test_gradients_are_right(self):
        images = pictures(2, 3, 4, torch.float64).requires_grad_()
        shifts = torch.tensor([[1, -1], [0, 2]])
        assert gradcheck(lambda x: augment.roll(x, shifts[:, 0], shifts[:, 1]), images)
        assert gradcheck(lambda x: augment.flip(x, torch.tensor([True, False])), images)


class TestCutMix:
    @pytest.mark.parametrize(
        ("centre", "size", "box"),
        [
            ((10, 12), (8, 6), [6, 9, 8, 6]),  # inside
            ((10, 12), (9, 7), [6, 9, 8, 6]),  # odd sides lose a pixel
            ((1, 30), (8, 8), [0, 26, 5, 6]),  # rows 0..5, columns 26..32
            ((31, 0), (32, 32), [15, 0, 17, 16]),
            ((5, 5), (1, 1), [5, 5, 0, 0]),  # nothing is pasted
        ],
    )
    def test_hand_computed_boxes_are_clipped_to_the_image(self, centre, size, box):
        assert augment.cutmix_box(torch.tensor(centre[0]), torch.tensor(centre[1]), *size, 32, 32).tolist() == box

    def test_draw_gives_a_uniform_lam_a_box_of_its_size_and_a_permutation(self):
        lams, unclipped = [], 0
        source = generator(1)
        for _ in range(1000):
            lam, box, permutation = augment.draw_cutmix(6, 32, 64, generator=source)
            top, left, height, width = box.tolist()
            side = math.sqrt(1 - lam.item())
            full_height, full_width = 2 * (int(32 * side) // 2), 2 * (int(64 * side) // 2)
            assert 0 <= top <= top + height <= 32 and 0 <= left <= left + width <= 64
            assert height <= full_height and width <= full_width
            unclipped += (height, width) == (full_height, full_width)
            assert permutation.sort().values.tolist() == list(range(6))
            lams.append(lam.item())
        assert kstest(lams, "uniform").pvalue > 0.01
        assert 100 < unclipped < 600

    def test_pastes_the_partner_inside_the_box_for_several_batches_at_once(self):
        images = pictures(5, 6, 7)
        boxes = torch.tensor([[1, 2, 3, 4]] * 3 + [[0, 0, 0, 5]] * 2)
        partner = torch.tensor([2, 0, 1, 4, 3])
        mixed = augment.cutmix(images, boxes, partner)
        expected = images.clone()
        expected[:3, :, 1:4, 2:6] = images[[2, 0, 1], :, 1:4, 2:6]
        assert torch.equal(mixed, expected)

    def test_gradients_reach_both_partners(self):
        images = pictures(2, 4, 4, torch.float64).requires_grad_()
        boxes = torch.tensor([[0, 1, 2, 3], [1, 1, 3, 3]])
        assert gradcheck(lambda x: augment.cutmix(x, boxes, torch.tensor([1, 0])), images)


class TestMixUp:
    def test_weights_each_image_by_its_own_lam(self):
        images = pictures(3, 4, 4)
        mixed = augment.mixup(images, torch.tensor([1.0, 0.25, 0.0]), torch.tensor([1, 2, 0]))
        torch.testing.assert_close(mixed, torch.stack([images[0], 0.25 * images[1] + 0.75 * images[2], images[0]]))

    def test_beta_draws_follow_their_distribution_and_their_generator(self):
        draws = augment.draw_beta(3000, 0.8, generator=generator(2))
        assert kstest(draws.numpy(), "beta", args=(0.8, 0.8)).pvalue > 0.01
        torch.manual_seed(99)
        assert torch.equal(draws, augment.draw_beta(3000, 0.8, generator=generator(2)))


class TestShufflePatches:
    def test_hand_computed_shuffle_of_a_side_that_is_not_divisible(self):
        image = torch.arange(25).view(1, 1, 5, 5)
        shuffled = augment.shuffle_patches(image, torch.tensor([[[1, 0], [1, 0]]]))
        assert shuffled[0, 0, 0].tolist() == [12, 13, 14, 10, 11]
        assert shuffled[0, 0, :, 0].tolist() == [12, 17, 22, 2, 7]

    def test_equals_cutting_and_joining_strips(self):
        images = pictures(6, 11, 8)
        orders = augment.draw_patch_orders(6, factor=3, generator=generator())
        shuffled = augment.shuffle_patches(images, orders)
        for image, (column_order, row_order), result in zip(images, orders.tolist(), shuffled, strict=True):
            columns = image.split([2, 2, 4], dim=2)
            joined = torch.cat([columns[index] for index in column_order], dim=2)
            rows = joined.split([3, 3, 5], dim=1)
            assert torch.equal(result, torch.cat([rows[index] for index in row_order], dim=1))

    def test_every_order_is_equally_likely(self):
        orders = augment.draw_patch_orders(3000, factor=3, generator=generator()).view(-1, 3)
        _, counts = orders.unique(dim=0, return_counts=True)
        assert counts.shape == (6,) and ((counts - 1000).abs() < 150).all()


@pytest.mark.parametrize("differentiated", [True, False])
def test_nothing_asks_the_device_for_a_value(differentiated):
    """On the meta device there are no values: asking for one raises."""
    images = torch.empty(4, 3, 16, 16, device="meta", requires_grad=differentiated)
    source = generator()
    boxes = augment.draw_crops(4, 16, 16, scale=(0.3, 1.0), generator=source)
    images = augment.shared_resized_crop(augment.resized_crop(images, boxes), boxes[0])
    images = augment.padded_crop(images, augment.draw_offsets(4, padding=2, generator=source), padding=2, fill=[0.0, 0.0, 0.0])
    images = augment.flip(images, augment.draw_flips(4, generator=source))
    images = augment.roll(images, *augment.draw_shifts(4, lowest=0, highest=4, generator=source).unbind(1))
    images = augment.shuffle_patches(images, augment.draw_patch_orders(4, factor=2, generator=source))
    _, box, permutation = augment.draw_cutmix(4, 16, 16, generator=source)
    images = augment.cutmix(images, box.expand(4, 4), permutation)
    images = augment.mixup(images, augment.draw_beta(4, 0.8, generator=source), permutation)
    assert images.shape == (4, 3, 16, 16) and images.device.type == "meta" and images.requires_grad == differentiated

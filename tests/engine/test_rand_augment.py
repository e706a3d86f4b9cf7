"""RandAugment: bit for bit against torchvision on uint8 images."""

import pytest
import torch
import torchvision.transforms.v2.functional as torchvision_functional
from torchvision.transforms.v2 import RandAugment

from engine.data.rand_augment import OPERATIONS, SIGNED, draw_rand_augment, operation_strength, rand_augment
from engine.errors import UserError

SLOPE = 0.09  # bin 9 of 0..30 for a range of 0.3
CHANGE = torch.linspace(0.0, 0.9, 31)[9].item()  # 0.27 as torchvision computes it: one unit in the last place less
DEGREES_OF_SLOPE = 5.142764558  # atan(0.09)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def photographs(count, height, width, seed=0):
    """uint8 images with some structure, one flat, one with a narrow range and one of two levels only."""
    coarse = torch.rand(count, 3, 5, 5, generator=generator(seed)) * 255
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    images = (images + 20 * torch.randn(images.shape, generator=generator(seed + 1))).clamp(0, 255).to(torch.uint8)
    images[0] = 77
    images[1] = images[1] // 8 + 100
    images[2] = (images[2] > 128).to(torch.uint8) * 255
    return images


def apply_all(images, name, negative, magnitude=9):
    operation = torch.full((len(images), 1), OPERATIONS.index(name))
    return rand_augment(images, operation, torch.full((len(images), 1), negative), magnitude=magnitude)


def by_torchvision(image, name, sign):
    """What torchvision's functions give at bin 9 for an image 40 pixels wide and 32 high."""
    functional = torchvision_functional
    unmoved = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    results = {
        "Identity": lambda: image,
        "ShearX": lambda: functional.affine(image, **unmoved | {"shear": [sign * DEGREES_OF_SLOPE, 0.0]}, center=[0, 0]),
        "ShearY": lambda: functional.affine(image, **unmoved | {"shear": [0.0, sign * DEGREES_OF_SLOPE]}, center=[0, 0]),
        "TranslateX": lambda: functional.affine(image, **unmoved | {"translate": [sign * 5, 0]}),  # 150/331 * 40 * 0.3 = 5.4
        "TranslateY": lambda: functional.affine(image, **unmoved | {"translate": [0, sign * 4]}),  # 150/331 * 32 * 0.3 = 4.4
        "Rotate": lambda: functional.rotate(image, sign * 9.0),
        "Brightness": lambda: functional.adjust_brightness(image, 1 + sign * CHANGE),
        "Color": lambda: functional.adjust_saturation(image, 1 + sign * CHANGE),
        "Contrast": lambda: functional.adjust_contrast(image, 1 + sign * CHANGE),
        "Sharpness": lambda: functional.adjust_sharpness(image, 1 + sign * CHANGE),
        "Posterize": lambda: functional.posterize(image, 7),  # 8 - round(9 / 7.5)
        "Solarize": lambda: functional.solarize(image, 178.5),  # 255 * (1 - 9/30)
        "AutoContrast": lambda: functional.autocontrast(image),
        "Equalize": lambda: functional.equalize(image),
    }
    return results[name]()


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_equals_torchvision_exactly(name, negative):
    images = photographs(8, 32, 40)
    results = apply_all(images, name, negative)
    assert results.dtype == torch.uint8
    for image, result in zip(images, results, strict=True):
        assert torch.equal(result, by_torchvision(image, name, -1 if negative else 1))


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_torchvisions_own_random_augment_gives_our_results_and_no_others(magnitude):
    """Its space, ranges, bins and directions, seen from outside: over many draws the two sets of outcomes are the same."""
    image = photographs(5, 32, 32)[4]
    operation = torch.arange(len(OPERATIONS)).repeat_interleave(2)[:, None]
    negative = torch.tensor([False, True]).repeat(len(OPERATIONS))[:, None]
    ours = rand_augment(image.expand(len(operation), -1, -1, -1), operation, negative, magnitude=magnitude)
    theirs = RandAugment(num_ops=1, magnitude=magnitude)
    torch.manual_seed(0)
    drawn = {theirs(image).numpy().tobytes() for _ in range(400)}
    assert drawn == {result.numpy().tobytes() for result in ours}


def test_operations_are_applied_one_after_the_other_to_each_image_alone():
    images = photographs(200, 16, 16)
    operation, negative = draw_rand_augment(200, operations=2, generator=generator(3))
    together = rand_augment(images, operation, negative)
    for index in range(0, 200, 10):
        step = apply_all(images[index : index + 1], OPERATIONS[operation[index, 0]], bool(negative[index, 0]))
        step = apply_all(step, OPERATIONS[operation[index, 1]], bool(negative[index, 1]))
        assert torch.equal(together[index], step[0])


def test_the_images_given_are_left_as_they_were():
    images = photographs(60, 16, 16)
    before = images.clone()
    rand_augment(images, *draw_rand_augment(60, generator=generator()))
    assert torch.equal(images, before)


def test_operations_and_directions_are_drawn_equally_often():
    operation, negative = draw_rand_augment(7000, operations=2, generator=generator())
    assert operation.shape == negative.shape == (7000, 2)
    assert ((operation.flatten().bincount(minlength=14) - 1000).abs() < 130).all()
    assert negative.sum().item() == pytest.approx(7000, abs=250)
    again, _ = draw_rand_augment(7000, operations=2, generator=generator())
    assert torch.equal(operation, again)


def test_direction_does_not_matter_to_operations_without_one():
    images = photographs(4, 16, 16)
    for name in set(OPERATIONS) - SIGNED:
        assert torch.equal(apply_all(images, name, False), apply_all(images, name, True))


def test_translation_is_measured_against_the_side_it_moves_along():
    assert operation_strength("TranslateX", 30, 100, 331) == pytest.approx(150)
    assert operation_strength("TranslateY", 30, 331, 100) == pytest.approx(150)
    assert operation_strength("ShearX", 9, 32, 32) == pytest.approx(SLOPE)


@pytest.mark.parametrize("magnitude", [-1, 31])
def test_a_magnitude_outside_its_bins_is_refused(magnitude):
    with pytest.raises(UserError, match="0 to 30"):
        rand_augment(photographs(3, 8, 8), *draw_rand_augment(3, generator=generator()), magnitude=magnitude)


def test_an_empty_batch_stays_empty():
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert rand_augment(empty, *draw_rand_augment(0, generator=generator())).shape == (0, 3, 8, 8)


def test_nothing_asks_the_device_for_a_value():
    """On the meta device there are no values: asking for one raises."""
    images = torch.empty(300, 3, 16, 16, dtype=torch.uint8, device="meta")
    results = rand_augment(images, *draw_rand_augment(300, generator=generator()))
    assert results.shape == images.shape and results.dtype == torch.uint8 and results.device.type == "meta"

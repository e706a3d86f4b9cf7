"""Moments of layer inputs equal their plain definition, in value and gradient, whatever the memory layout, precision and size."""

import pytest
import torch
from matching_definitions import plain_moments
from torch import Tensor

from engine.matching.moments import pooled_moments
from engine.matching.watched import layer_moments

CASES = [
    pytest.param((6, 5, 8, 8), 4, 1, id="four tiles"),
    pytest.param((6, 5, 8, 4), 4, 3, id="oblong, three groups"),
    pytest.param((6, 5, 4, 4), 4, 2, id="one tile"),
    pytest.param((6, 5, 2, 2), 4, 2, id="upsampled to one tile"),
    pytest.param((4, 3, 7, 5), 4, 2, id="upsampled to four tiles"),
    pytest.param((4, 3, 1, 1), 4, 2, id="one pixel"),
    pytest.param((6, 5, 6, 6), None, 2, id="channels only"),
    pytest.param((20, 5, 3, 3), None, 20, id="channels only, image by image"),
    pytest.param((20, 5, 4, 4), 4, 20, id="image by image"),
]


def example(shape: tuple[int, ...], mean: float = 0.3, std: float = 1.7, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (mean + std * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize(("shape", "patch", "groups"), CASES)
class TestDefinition:
    def test_values_in_float64(self, shape, patch, groups, memory_format):
        h = example(shape).to(memory_format=memory_format)
        torch.testing.assert_close(layer_moments(h, patch, groups), plain_moments(h, patch, groups), rtol=1e-10, atol=1e-10)

    def test_values_in_float32(self, shape, patch, groups, memory_format):
        h = example(shape, dtype=torch.float32).to(memory_format=memory_format)
        moments = layer_moments(h, patch, groups)
        assert moments.dtype == torch.float32
        torch.testing.assert_close(moments.double(), plain_moments(h, patch, groups), rtol=1e-5, atol=1e-5)

    def test_moments_of_bfloat16_are_not_rounded_to_bfloat16(self, shape, patch, groups, memory_format):
        h = example(shape, dtype=torch.bfloat16).to(memory_format=memory_format)
        torch.testing.assert_close(layer_moments(h, patch, groups).double(), plain_moments(h, patch, groups), rtol=1e-5, atol=1e-5)

    def test_gradient_is_that_of_the_definition(self, shape, patch, groups, memory_format):
        h = example(shape).to(memory_format=memory_format).requires_grad_()
        weights = torch.randn(plain_moments(h, patch, groups).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (ours,) = torch.autograd.grad((layer_moments(h, patch, groups) * weights).sum(), h)
        (plain,) = torch.autograd.grad((plain_moments(h, patch, groups) * weights).sum(), h)
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("patch", [None, 2])
def test_gradcheck(patch):
    h = example((4, 2, 4, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: layer_moments(values, patch, 2), (h,))


@pytest.mark.parametrize("groups", [1, 20])
@pytest.mark.parametrize("patch", [None, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_a_large_mean_does_not_drown_the_variance(patch, groups, memory_format):
    h = example((20, 8, 8, 8), mean=1000, std=1, dtype=torch.float32).to(memory_format=memory_format)
    h.requires_grad_()
    moments = layer_moments(h, patch, groups)
    plain = plain_moments(h, patch, groups)
    torch.testing.assert_close(moments[:, 0].double(), plain[:, 0], rtol=1e-6, atol=0)
    torch.testing.assert_close(moments[:, 1].double(), plain[:, 1], rtol=1e-4, atol=0)
    (ours,) = torch.autograd.grad(moments[:, 1].sum(), h)
    (expected,) = torch.autograd.grad(plain[:, 1].sum(), h)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def test_a_hand_computed_image():
    h = torch.tensor([[1.0, 1.0, 4.0, 4.0], [1.0, 1.0, 4.0, 8.0]]).view(1, 1, 2, 4)
    assert layer_moments(h, None).tolist() == [[[3.0], [5.5]]]
    assert layer_moments(h, 2).tolist() == [[[3.0, 1.0, 5.0], [5.5, 0.0, 3.0]]]


def test_the_variance_of_a_one_pixel_tile_is_that_between_channels():
    h = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    assert layer_moments(h, 4)[..., 2:].tolist() == [[[2.0], [1.0]]]


def test_groups_do_not_see_each_other():
    h = example((6, 3, 4, 4))
    torch.testing.assert_close(layer_moments(h, 4, 2)[1:], layer_moments(h[3:], 4, 1))


def test_pooling_single_images_gives_the_moments_of_their_union():
    h = example((5, 3, 4, 4))
    rows = torch.tensor([1, 0, 1, 1, 0])
    pooled = pooled_moments(layer_moments(h, 4, groups=5), rows, counts=torch.tensor([2, 3]))
    expected = torch.cat([plain_moments(h[rows == row], 4, 1) for row in (0, 1)])
    torch.testing.assert_close(pooled, expected, rtol=1e-10, atol=1e-10)


def test_blocks_larger_and_smaller_than_a_group_give_the_same_sweep(monkeypatch):
    h = example((12, 3, 8, 8), dtype=torch.bfloat16).to(memory_format=torch.channels_last).requires_grad_()
    gradients = []
    for values in (3 * 64, 3 * 64 * 5, 3 * 64 * 100):
        monkeypatch.setattr("engine.matching.reductions.CACHED_VALUES", values)
        moments = layer_moments(h, 4, groups=3)
        gradients.append(torch.autograd.grad(moments.sin().sum(), h)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])

"""Numbers of weights by formula and table against the networks themselves."""

import pytest
import torch

from engine.errors import UserError
from engine.models.registry import create_model, list_models, parameter_count

SMALL = [info.name for info in list_models() if "<" not in info.name and info.resolutions[0] < 128]
PATTERNS = ["resnet18-w8", "resnet50-w7", "resnet101-w4", "wrn-10-1", "wrn-22-3", "convnet-w7", "convnet-d4", "convnet-d2-w9-bn"]
LARGE = [info.name for info in list_models() if "<" not in info.name and (info.resolutions[1] or 128) >= 128]
OTHERS = ["resnext50-32x4d", "squeezenet1_1", "googlenet", "mnasnet0_5", "swin_v2_t", "vit_h_14", "timm/vit_small_patch16_224"]


def built(name: str, classes: int, resolution: int) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_model(name, classes, resolution).parameters())


@pytest.mark.parametrize("name", SMALL + PATTERNS)
def test_networks_for_small_images_have_the_number_told(name):
    for classes, resolution in ((3, 16), (10, 28), (100, 32), (200, 64)):
        assert parameter_count(name, classes, resolution) == built(name, classes, resolution), (classes, resolution)


@pytest.mark.parametrize("name", LARGE + OTHERS)
def test_networks_for_large_images_have_the_number_told(name):
    for classes, resolution in ((10, 224), (1000, 448)):
        assert parameter_count(name, classes, resolution) == built(name, classes, resolution), (classes, resolution)


@pytest.mark.parametrize("resolution", [128, 144, 160, 192, 256])
@pytest.mark.parametrize("name", ["swin-tiny", "deit-tiny", "vit-b-16", "convnet-d5"])
def test_weights_that_depend_on_the_side_are_counted_for_it(name, resolution):
    assert parameter_count(name, 7, resolution) == built(name, 7, resolution)


def test_a_side_that_a_network_does_not_take_is_refused():
    with pytest.raises(UserError, match="multiple of its patches"):
        parameter_count("deit-tiny", 10, 130)

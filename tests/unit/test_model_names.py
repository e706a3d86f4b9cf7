"""Names of models: what is listed, what is accepted at which resolution, and what a refusal says; all without torch."""

import subprocess
import sys

import pytest

from engine.errors import UserError
from engine.models.registry import check_model, list_models, parameter_count


def refusal(name: str, resolution: int) -> str:
    with pytest.raises(UserError) as caught:
        check_model(name, resolution)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("resolution", [16, 28, 32, 64, 224])
def test_every_listed_name_is_accepted_exactly_where_it_says(resolution):
    for info in list_models():
        if "<" in info.name:
            continue
        smallest, largest = info.resolutions
        if smallest <= resolution <= (largest or resolution):
            check_model(info.name, resolution)
        else:
            refusal(info.name, resolution)


def test_the_patterns_are_listed_without_a_parameter_count_and_the_names_with_one():
    infos = list_models()
    assert {"resnet18-w<base>", "wrn-<depth>-<k>", "convnet-d<depth>-w<width>", "timm/<name>"} <= {info.name for info in infos}
    assert all((info.parameters is None) == ("<" in info.name) for info in infos)
    assert len({info.name for info in infos}) == len(infos)


def test_every_help_is_one_sentence():
    assert all(info.help.endswith(".") and "\n" not in info.help for info in list_models())


@pytest.mark.parametrize("name", ["convnet-d3-w48", "convnet-d3-w48-bn", "convnet-w7", "resnet18-w16", "resnet50-w8", "wrn-28-10"])
def test_names_that_follow_a_pattern_are_accepted(name):
    check_model(name, 32)


@pytest.mark.parametrize("name", ["convnet", "convnet-bn", "convnet-d0", "convnet-w0", "resnet18-w", "wrn-16", "resnet18\n", ""])
def test_names_that_only_resemble_a_pattern_are_refused(name):
    assert "there is no model" in refusal(name, 32)


@pytest.mark.parametrize(
    ("name", "resolution", "nearest"),
    [
        ("resnt18", 32, "resnet18"),
        ("convnet-128", 32, "convnet-w128"),
        ("mobilenetv2", 64, "mobilenet-v2"),
        ("efficientnt-b0", 224, "efficientnet-b0"),
        ("resnext50", 224, "resnext50_32x4d"),
        ("timm/deit_tiny", 224, "timm/deit_tiny_patch16_224"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(name, resolution, nearest):
    assert nearest in refusal(name, resolution)


def test_a_name_like_nothing_is_answered_with_where_the_list_is():
    assert "edc models" in refusal("qqqq", 32)


@pytest.mark.parametrize(("depth", "resolution"), [(4, 16), (5, 32), (6, 64), (4, 28), (7, 128)])
def test_a_convnet_may_halve_the_image_down_to_one_pixel_and_no_further(depth, resolution):
    check_model(f"convnet-d{depth}", resolution)
    message = refusal(f"convnet-d{depth + 1}", resolution)
    assert f"{resolution} px" in message
    assert f"at most {depth}" in message


def test_a_wide_residual_network_has_three_equal_groups():
    assert "6n+4" in refusal("wrn-17-2", 32)
    assert "6n+4" in refusal("wrn-4-2", 32)


def test_the_small_zoo_ends_where_torchvision_begins():
    check_model("wrn-16-2", 127)
    assert "below 128 px" in refusal("wrn-16-2", 128)
    assert "below 128 px" in refusal("resnet18-w16", 224)
    assert "128 px and more" in refusal("alexnet", 127)
    check_model("alexnet", 128)


def test_torchvisions_own_spelling_means_a_large_network_and_points_to_the_small_one_below_128_px():
    check_model("mobilenet_v2", 224)
    assert "mobilenet-v2" in refusal("mobilenet_v2", 32)


@pytest.mark.parametrize("name", ["resnet34", "resnext50-32x4d", "efficientnet-v2-s", "swin_v2_t", "shufflenet-v2-1.5", "timm/resnet10t"])
def test_any_torchvision_or_timm_classifier_is_accepted_from_128_px_on(name):
    check_model(name, 224)


@pytest.mark.parametrize("name", ["vit-b-16", "deit-tiny", "timm/vit_small_patch16_224"])
def test_patches_must_tile_the_image(name):
    check_model(name, 144)
    assert "multiple of its patches' 16 px" in refusal(name, 136)


def test_the_small_transformers_patches_must_tile_the_image():
    for resolution in (8, 16, 22, 24, 32, 64, 124):
        check_model("vit-tiny", resolution)
    assert "multiple of its patches' 2 px" in refusal("vit-tiny", 15)
    assert "multiple of its patches' 4 px" in refusal("vit-tiny", 30)
    assert "below 128 px" in refusal("vit-tiny", 224)


class TestParameterCounts:
    """Numbers of weights without the networks; tests/engine/test_counts.py holds them against the networks."""

    def test_the_listed_numbers_are_those_at_ten_classes(self):
        for info in list_models():
            if info.parameters is not None:
                assert parameter_count(info.name, 10, 32 if info.resolutions[0] < 128 else 224) == info.parameters, info.name

    def test_the_numbers_published_for_imagenet_1k_come_out(self):
        published = {"resnet18": 11_689_512, "resnet50": 25_557_032, "vit-b-16": 86_567_656, "alexnet": 61_100_840, "swin_t": 28_288_354}
        published |= {"regnet_y_400mf": 4_344_144, "timm/deit_small_patch16_224": 22_050_664, "convnext-tiny": 28_589_128}
        assert {name: parameter_count(name, 1000, 224) for name in published} == published

    def test_a_network_without_a_known_number_is_named_with_the_way_out(self):
        for name in ("timm/resnet10t", "maxvit_t"):
            with pytest.raises(UserError, match="labels.mode") as caught:
                parameter_count(name, 10, 224)
            assert repr(name) in str(caught.value) and '"stored"' in str(caught.value) and "\n" not in str(caught.value)

    def test_a_name_that_is_wrong_is_refused_as_ever(self):
        with pytest.raises(UserError, match="did you mean resnet18"):
            parameter_count("resnt18", 10, 32)


@pytest.mark.parametrize("resolution", [-1, 0, 7])
def test_images_under_8_px_are_refused(resolution):
    assert "8 px and more" in refusal("resnet18", resolution)


def test_names_are_checked_without_importing_torch_torchvision_or_timm():
    code = (
        "import sys; from engine.models.registry import check_model, list_models\n"
        "list_models(); check_model('resnet18', 32); check_model('resnet34', 224); check_model('timm/deit_tiny_patch16_224', 224)\n"
        "from engine.models.registry import parameter_count; parameter_count('resnet18', 10, 32); parameter_count('vit-b-16', 10, 224)\n"
        "print([name for name in ('torch', 'torchvision', 'timm') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

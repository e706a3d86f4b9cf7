"""Networks of torchvision and timm at small resolutions: shapes, one step of training, and what is left of the originals."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from engine.errors import UserError
from engine.models.registry import check_model, create_model

STUDENTS = ["efficientnet-b0", "densenet121", "vgg11-bn", "convnext-tiny", "deit-tiny", "swin-tiny"]  # those that are not our own
LARGE = ["resnet18", "resnet50", "resnet101", "mobilenet-v2", "shufflenet-v2-0.5", *STUDENTS]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_of_tables_1_and_2_learns_a_batch_of_small_images(name, resolution):
    model = create_model(name, classes=4, resolution=resolution).to(memory_format=torch.channels_last).train()
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model(torch.randn(2, 3, resolution, resolution))
    assert logits.shape == (2, 4)
    functional.cross_entropy(logits, torch.tensor([0, 3])).backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(not torch.equal(before[key], value) for key, value in model.named_parameters() if value.ndim > 1)


@pytest.mark.parametrize("name", STUDENTS)
def test_no_layer_input_changes_after_it_was_read(name):
    model = create_model(name, classes=5, resolution=16)
    read = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs: read.append((inputs[0], inputs[0].clone())))
    model(torch.randn(2, 3, 16, 16))
    assert read
    assert all(torch.equal(kept, copied) for kept, copied in read)


def meta(name, resolution):
    """A network's shapes without its weights, and a batch of images likewise."""
    with torch.device("meta"):
        return create_model(name, 10, resolution).eval(), torch.empty(1, 3, resolution, resolution)


class TestStems:
    """What the first layers leave of the image, as the literature on small images has it."""

    @pytest.mark.parametrize(
        ("name", "side", "left"),
        [("efficientnet-b0", 32, 2), ("densenet121", 32, 4), ("vgg11-bn", 32, 1), ("vgg11-bn", 64, 2), ("vgg11-bn", 16, 1)],
    )
    def test_convolutions_leave_so_many_pixels_of_a_side(self, name, side, left):
        model, images = meta(name, side)
        assert model.features(images).shape[-2:] == (left, left)

    @pytest.mark.parametrize("side", [32, 64])
    def test_transformers_and_convnext_see_as_many_patches_at_32_and_64_px(self, side):
        assert meta("deit-tiny", side)[0].pos_embed.shape[1] == 64 + 1
        assert meta("swin-tiny", side)[0].patch_embed.grid_size == (16, 16)
        model, images = meta("convnext-tiny", side)
        assert model.features[0](images).shape[-2:] == (16, 16)

    def test_swin_attends_in_windows_of_4_patches(self):
        model, _ = meta("swin-tiny", 32)
        assert [tuple(stage.blocks[0].window_size) for stage in model.layers] == [(4, 4), (4, 4), (4, 4), (2, 2)]


class TestBodies:
    """But for the stem the weights are the original's, by name and shape."""

    @pytest.mark.parametrize(
        ("name", "build", "changed"),
        [
            ("efficientnet-b0", torchvision.models.efficientnet_b0, set()),
            ("densenet121", torchvision.models.densenet121, {"features.conv0.weight"}),
            ("convnext-tiny", torchvision.models.convnext_tiny, {"features.0.0.weight"}),
            ("swin-tiny", lambda num_classes: timm.create_model("swin_tiny_patch4_window7_224", num_classes=num_classes), None),
        ],
    )
    def test_names_and_shapes(self, name, build, changed):
        with torch.device("meta"):
            ours = {key: value.shape for key, value in create_model(name, 10, 32).state_dict().items()}
            theirs = {key: value.shape for key, value in build(num_classes=10).state_dict().items()}
        assert ours.keys() == theirs.keys()
        differing = {key for key, shape in ours.items() if shape != theirs[key]}
        assert differing == changed if changed is not None else all("patch_embed" in key or "relative_position" in key for key in differing)

    def test_efficientnet_with_the_stride_put_back_is_torchvisions(self):
        ours, theirs = create_model("efficientnet-b0", 10, 32).eval(), torchvision.models.efficientnet_b0(num_classes=10).eval()
        theirs.load_state_dict(ours.state_dict())
        ours.features[0][0].stride = (2, 2)
        images = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(ours(images), theirs(images))


class TestLarge:
    @pytest.mark.parametrize("name", LARGE)
    def test_every_student_takes_224_px(self, name):
        with torch.device("meta"):
            assert create_model(name, classes=1000, resolution=224)(torch.empty(2, 3, 224, 224)).shape == (2, 1000)

    @pytest.mark.parametrize(
        ("name", "builder"),
        [
            ("resnet18", "resnet18"),
            ("resnet50", "resnet50"),
            ("resnet101", "resnet101"),
            ("mobilenet-v2", "mobilenet_v2"),
            ("efficientnet-b0", "efficientnet_b0"),
            ("shufflenet-v2-0.5", "shufflenet_v2_x0_5"),
            ("densenet121", "densenet121"),
            ("vgg11-bn", "vgg11_bn"),
            ("convnext-tiny", "convnext_tiny"),
        ],
    )
    def test_from_128_px_on_they_have_the_weights_that_torchvision_publishes(self, name, builder):
        from engine.models.registry import parameter_count

        published = torchvision.models.get_model_weights(builder).IMAGENET1K_V1.meta["num_params"]
        assert parameter_count(name, 1000, 224) == published


class TestAnyOfTimm:
    def test_whatever_timm_builds_is_taken_at_small_sides_as_it_is(self):
        model = create_model("timm/resnet10t", classes=5, resolution=32)
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)

    def test_a_network_that_leaves_nothing_of_the_image_is_refused_in_one_line(self):
        with pytest.raises(UserError, match="timm's inception_v4 cannot be built for 32 px images") as caught:
            create_model("timm/inception_v4", classes=5, resolution=32)
        assert "\n" not in str(caught.value)

    def test_patches_must_tile_the_image(self):
        with pytest.raises(UserError, match="multiple of its patches' 16 px"):
            check_model("timm/deit_small_patch16_224", 40)

    def test_attention_is_computed_step_by_step(self):
        for name, resolution in (("deit-tiny", 32), ("swin-tiny", 32), ("timm/deit_tiny_patch16_224", 32)):
            assert not any(getattr(module, "fused_attn", False) for module in meta(name, resolution)[0].modules()), name

"""The networks themselves: sizes against published or hand-derived counts, outputs against torchvision, gradients, formats, seeds."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from engine.errors import UserError
from engine.models import registry
from engine.models.convnet import convnet
from engine.models.mobilenet import InvertedResidual, mobilenet_v2
from engine.models.registry import create_model, list_models
from engine.models.resnet import resnet
from engine.models.shufflenet import shuffle_channels
from engine.models.wide_resnet import wide_resnet

FAMILIES = ["resnet18-w8", "resnet50-w8", "mobilenet-v2", "shufflenet-v2-0.5", "wrn-10-1", "convnet-w16", "convnet-d2-w16-bn", "vit-tiny"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def perturb_normalisation(model: nn.Module) -> nn.Module:
    """Give every normalisation distinct numbers, so that one in the wrong place shows in the output."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5)
            for values in (module.bias.data, module.running_mean):
                values.normal_(std=0.2)
    return model


class TestParameterCounts:
    def test_the_listed_counts_are_those_of_the_networks(self):
        for info in list_models():
            if info.parameters is not None:
                with torch.device("meta"):
                    model = create_model(info.name, classes=10, resolution=32 if info.resolutions[0] < 128 else 224)
                assert parameter_count(model) == info.parameters, info.name

    @pytest.mark.parametrize(("depth", "published"), [(18, 11_173_962), (50, 23_520_842), (101, 42_512_970)])
    def test_residual_networks_have_the_counts_published_for_cifar_10(self, depth, published):
        with torch.device("meta"):
            assert parameter_count(resnet(classes=10, depth=depth)) == published

    def test_wrn_16_2_has_the_count_derived_by_hand(self):
        # A block from a to b channels: BatchNorms 2a + 2b, convolutions 9ab + 9bb, and ab for a projecting shortcut.
        def block(a, b):
            return 2 * a + 2 * b + 9 * a * b + 9 * b * b + (a * b if a != b else 0)

        # Stem 3*16*9; two blocks in each group of 32, 64, 128; last BatchNorm 2*128; head 128*10 + 10.
        blocks = block(16, 32) + block(32, 32) + block(32, 64) + block(64, 64) + block(64, 128) + block(128, 128)
        assert parameter_count(wide_resnet(classes=10)) == 3 * 16 * 9 + blocks + 2 * 128 + 128 * 10 + 10 == 691_674

    def test_wrn_28_10_has_the_36_5_million_of_its_paper(self):
        with torch.device("meta"):
            assert parameter_count(wide_resnet(classes=10, depth=28, widen_factor=10)) == 36_479_194

    def test_half_mobilenet_v2_has_the_0_81_million_of_the_distillation_literature(self):
        # A block from a to b with h = ta hidden: convolutions ah + 9h + hb, BatchNorms 2h + 2h + 2b.
        def block(a, b, t):
            return a * t * a + 9 * t * a + t * a * b + 4 * t * a + 2 * b

        widths = [16, 8, *[12] * 2, *[16] * 3, *[32] * 4, *[48] * 3, *[80] * 3, 160]
        blocks = sum(block(a, b, 1 if index == 0 else 6) for index, (a, b) in enumerate(zip(widths, widths[1:], strict=False)))
        stem, head = 27 * 16 + 32, 160 * 1280 + 2 * 1280
        assert parameter_count(mobilenet_v2(classes=100)) == stem + blocks + head + 1280 * 100 + 100 == 812_836

    @pytest.mark.parametrize(("depth", "width", "resolution"), [(3, 128, 32), (3, 32, 64), (1, 16, 16), (4, 8, 16)])
    def test_convnets_follow_their_formula(self, depth, width, resolution):
        # First block 27w + w, the others 9ww + w, each with 2w of normalisation; the head sees (resolution / 2^depth)^2 pixels.
        side = resolution // 2**depth
        formula = 28 * width + (depth - 1) * (9 * width**2 + width) + depth * 2 * width + (width * side**2 + 1) * 10
        assert parameter_count(convnet(classes=10, resolution=resolution, depth=depth, width=width)) == formula

    def test_convnet_w128_has_the_320_010_of_the_condensation_literature(self):
        assert parameter_count(create_model("convnet-w128", classes=10, resolution=32)) == 320_010


class TestAgainstTorchvision:
    """Where torchvision has the network but for its stem, its weights load here by name and give the same logits."""

    @pytest.mark.parametrize("depth", [18, 50])
    def test_residual_networks_equal_torchvisions_with_a_small_stem(self, depth):
        theirs = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=10)
        theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        theirs.maxpool = nn.Identity()
        self.assert_equal_logits(theirs, resnet(classes=10, depth=depth))

    def test_shufflenet_equals_torchvisions_with_a_small_stem(self):
        theirs = torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=10)
        theirs.conv1[0] = nn.Conv2d(3, 24, 1, bias=False)
        theirs.maxpool = nn.Identity()
        self.assert_equal_logits(theirs, create_model("shufflenet-v2-0.5", classes=10, resolution=32))

    @pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(8, 8, 1), (8, 12, 1), (8, 8, 2)])
    def test_the_inverted_residual_equals_torchvisions_with_plain_relu(self, in_channels, out_channels, stride):
        theirs = torchvision.models.mobilenetv2.InvertedResidual(in_channels, out_channels, stride, expand_ratio=6)
        theirs.conv[0][2], theirs.conv[1][2] = nn.ReLU(), nn.ReLU()
        ours = InvertedResidual(in_channels, out_channels, stride=stride, expansion=6)
        perturb_normalisation(theirs)
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
        images = torch.randn(2, in_channels, 6, 6)
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))

    @staticmethod
    def assert_equal_logits(theirs: nn.Module, ours: nn.Module) -> None:
        perturb_normalisation(theirs)
        ours.load_state_dict(theirs.state_dict())
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


class TestWideResidualNetwork:
    def test_a_network_computes_what_its_paper_writes_down(self):
        model = perturb_normalisation(wide_resnet(classes=10, depth=10, widen_factor=1)).eval()
        weights = model.state_dict()
        images = torch.randn(2, 3, 16, 16)

        def activate(features, name):
            statistics = [weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
            return functional.relu(functional.batch_norm(features, *statistics))

        features = functional.conv2d(images, weights["conv1.weight"], padding=1)
        for index, stride in enumerate((1, 2, 2)):
            block = f"blocks.{index}"
            activated = activate(features, f"{block}.bn1")
            inner = functional.conv2d(activated, weights[f"{block}.conv1.weight"], stride=stride, padding=1)
            residual = functional.conv2d(activate(inner, f"{block}.bn2"), weights[f"{block}.conv2.weight"], padding=1)
            projection = weights.get(f"{block}.shortcut.weight")
            features = residual + (features if projection is None else functional.conv2d(activated, projection, stride=stride))
        pooled = activate(features, "bn").mean(dim=(2, 3))
        torch.testing.assert_close(model(images), pooled @ weights["fc.weight"].T + weights["fc.bias"])

    def test_each_group_but_the_first_halves_the_side(self):
        model = wide_resnet(classes=10, depth=16, widen_factor=1)
        assert model.blocks(model.conv1(torch.randn(1, 3, 32, 32))).shape == (1, 64, 8, 8)


class TestConvNet:
    def test_the_default_normalises_each_image_and_channel_by_itself(self):
        model = convnet(classes=10, resolution=16, depth=1, width=4)
        images = torch.randn(3, 4, 16, 16)
        torch.testing.assert_close(model[1](images), nn.InstanceNorm2d(4)(images), atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("side", [16, 32])  # PyTorch has another kernel for channels_last from 1024 pixels on
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("learning", [False, True])
    def test_it_does_so_in_every_layout_and_precision_learning_or_not(self, side, dtype, learning):
        layer = convnet(classes=10, resolution=32, depth=1, width=4)[1]
        nn.init.uniform_(layer.weight), nn.init.normal_(layer.bias)
        images = torch.randn(3, 4, side, side).to(dtype)
        exact = images.double().requires_grad_(True)
        mean, variance = exact.mean((2, 3), keepdim=True), exact.var((2, 3), keepdim=True, unbiased=False)
        expected = (exact - mean) / (variance + layer.eps).sqrt() * layer.weight.view(1, 4, 1, 1) + layer.bias.view(1, 4, 1, 1)
        close = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
        upstream = torch.randn(3, 4, side, side)
        wanted = torch.autograd.grad(expected.float(), exact, upstream)[0].float()
        for laid_out in (images, images.contiguous(memory_format=torch.channels_last)):
            with torch.set_grad_enabled(learning):
                shown = laid_out.detach().requires_grad_(learning)
                result = layer(shown)
            assert result.dtype == dtype
            torch.testing.assert_close(result.detach().float(), expected.detach().float(), **close)
            if learning:
                gradient = torch.autograd.grad(result, shown, upstream.to(dtype))[0]
                torch.testing.assert_close(gradient.float(), wanted, **close)

    def test_the_deepest_network_for_a_resolution_still_normalises_four_pixels(self):
        model = create_model("convnet-d4-w8", classes=10, resolution=16)
        sides = []
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                module.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
        model(torch.randn(1, 3, 16, 16))
        assert sides == [16, 8, 4, 2]

    def test_only_the_bn_variant_has_batch_normalisation(self):
        kinds = {name: {type(module) for module in create_model(name, 10, 32).modules()} for name in ("convnet-w8", "convnet-w8-bn")}
        assert nn.BatchNorm2d not in kinds["convnet-w8"]
        assert nn.GroupNorm not in kinds["convnet-w8-bn"]
        assert nn.BatchNorm2d in kinds["convnet-w8-bn"]


class TestTransformer:
    def test_patches_are_4_px_from_24_px_on_and_2_px_below(self):
        tokens = {side: create_model("vit-tiny", 10, side).pos_embed.shape[1] for side in (16, 20, 24, 32, 64)}
        assert tokens == {16: 64, 20: 100, 24: 36, 32: 64, 64: 256}

    def test_tokens_attend_as_the_paper_writes_it_down(self):
        block = create_model("vit-tiny", 10, 16).eval().blocks[0]
        tokens = torch.randn(2, 64, 128)
        entering = block.norm1(tokens)
        query, key, value = (entering @ block.attn.qkv.weight.T + block.attn.qkv.bias).view(2, 64, 3, 4, 32).permute(2, 0, 3, 1, 4)
        heads = torch.softmax(query @ key.mT / 32**0.5, -1) @ value
        tokens_after = tokens + 0.1 * block.attn.proj(heads.transpose(1, 2).flatten(2))
        expected = tokens_after + 0.1 * block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(tokens_after))))
        torch.testing.assert_close(block(tokens), expected, atol=1e-5, rtol=1e-4)

    def test_it_has_no_batch_normalisation_and_draws_nothing_while_it_trains(self):
        model = create_model("vit-tiny", 10, 16).train()
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        images = torch.randn(2, 3, 16, 16)
        assert torch.equal(model(images), model(images))


def test_mobilenet_leaves_two_by_two_pixels_of_32_px_so_the_global_average_is_the_references_2x2_pool():
    model = mobilenet_v2(classes=10).eval()
    features = model.head(model.blocks(model.stem(torch.randn(2, 3, 32, 32))))
    assert features.shape == (2, 1280, 2, 2)
    torch.testing.assert_close(features.mean(dim=(2, 3)), nn.AvgPool2d(2)(features).flatten(1))


def test_the_channel_shuffle_interleaves_the_halves_and_keeps_channels_last():
    images = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    shuffled = shuffle_channels(images)
    assert shuffled[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_every_small_resolution(name, resolution):
    assert create_model(name, classes=7, resolution=resolution)(torch.randn(2, 3, resolution, resolution)).shape == (2, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_in_channels_last_under_bfloat16_autocast(name):
    model = create_model(name, classes=5, resolution=16).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.bfloat16
    functional.cross_entropy(logits.float(), torch.arange(4)).backward()
    gradients = [images.grad, *(parameter.grad for parameter in model.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_and_contiguous_give_the_same_logits(name):
    model = create_model(name, classes=5, resolution=16).eval()
    images = torch.randn(2, 3, 16, 16)
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images.contiguous(memory_format=torch.channels_last)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_layer_input_changes_after_it_was_read(name):
    model = create_model(name, classes=5, resolution=16)
    read = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs: read.append((inputs[0], inputs[0].clone())))
    model(torch.randn(2, 3, 16, 16))
    assert read
    assert all(torch.equal(kept, copied) for kept, copied in read)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_convolution_is_the_stem_that_sees_the_image(name):
    model = create_model(name, classes=5, resolution=16)
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == 3


class TestWeights:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_same_seed_gives_the_same_weights_and_another_seed_others(self, name):
        def weights(seed):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return torch.cat([parameter.flatten() for parameter in create_model(name, 10, 16).parameters()])

        assert torch.equal(weights(1), weights(1))
        assert not torch.equal(weights(1), weights(2))

    @pytest.mark.parametrize("name", ["resnet18", "wrn-16-2", "mobilenet-v2"])
    def test_residual_networks_draw_convolutions_with_fan_out_variance(self, name):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = create_model(name, 10, 32)
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 20_000:
                expected = (2 / (module.out_channels * module.weight[0, 0].numel())) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.03)


class TestLargeModels:
    """From 128 px on; built without allocating their weights where only shapes matter."""

    def test_the_names_read_from_source_are_the_names_registered(self):
        import timm

        assert registry._builders("torchvision") == tuple(sorted(torchvision.models.list_models(module=torchvision.models)))
        assert registry._builders("timm") == tuple(sorted(timm.list_models()))

    @pytest.mark.parametrize("name", ["vit-b-16", "deit-tiny", "swin-tiny", "timm/resnet10t", "googlenet", "densenet121", "maxvit_t"])
    def test_networks_are_built_for_the_resolution_asked_for(self, name):
        with torch.device("meta"):
            resolution = 448 if name == "maxvit_t" else 160
            model = create_model(name, classes=7, resolution=resolution).train()
            assert model(torch.empty(2, 3, resolution, resolution)).shape == (2, 7)

    def test_resnet18_is_torchvisions_own_from_128_px_on(self):
        with torch.device("meta"):
            model = create_model("resnet18", classes=10, resolution=128)
        assert isinstance(model, torchvision.models.ResNet)
        assert model.conv1.stride == (2, 2)

    def test_a_resolution_that_a_constructor_refuses_is_one_clear_line(self):
        with pytest.raises(UserError, match="maxvit_t cannot be built for 128 px images") as caught:
            create_model("maxvit_t", classes=10, resolution=128)
        assert "\n" not in str(caught.value)

    def test_an_unknown_name_is_refused_with_the_nearest(self):
        with pytest.raises(UserError, match="timm/resnet10t"):
            create_model("timm/resnet10", classes=10, resolution=224)


def test_a_network_needs_a_class():
    with pytest.raises(UserError, match="at least 1 class"):
        create_model("resnet18", classes=0, resolution=32)

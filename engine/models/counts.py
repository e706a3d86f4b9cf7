"""How many weights a network has, by formula or table, without building it: a plan tells the bytes of teachers from it."""

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Transformer:
    """The shape of a plain vision transformer whose MLPs are four times as wide as its tokens."""

    width: int
    depth: int
    class_token: bool = True
    layer_scale: bool = False


VIT_TINY = Transformer(128, 4, class_token=False, layer_scale=True)
VIT_SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # width, blocks
VIT_SIZES |= {"b": VIT_SIZES["base"], "l": VIT_SIZES["large"], "h": (1280, 32)}
VIT_NAMES = {
    "timm": re.compile(r"(?:vit|deit)_(?P<size>tiny|small|base|large)_patch(?P<patch>\d+)_224"),
    "torchvision": re.compile(r"vit_(?P<size>[blh])_(?P<patch>\d+)"),
}

RESNET_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
MOBILENET_STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))  # expansion, channels, blocks
SHUFFLENET_STAGES = ((48, 4), (96, 8), (192, 4))
SWIN_TINY = {"blocks": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7}
SMALL_WINDOW = 4  # patches of a side of Swin-Tiny's windows below 128 px

VGG11_BN_CONVOLUTIONS = 9_225_984

SWIN = "swin_tiny_patch4_window7_224"

# Weights below the head, and features that enter it. But for Swin's (at 224 px here) no count depends on the size of the images.
LARGE = {
    "timm": {
        SWIN: (27_519_354, 768),
    },
    "torchvision": {
        "alexnet": (57_003_840, 4_096),
        "convnext_base": (87_566_464, 1_024),
        "convnext_large": (196_230_336, 1_536),
        "convnext_small": (49_454_688, 768),
        "convnext_tiny": (27_820_128, 768),
        "densenet121": (6_953_856, 1_024),
        "densenet161": (26_472_000, 2_208),
        "densenet169": (12_484_480, 1_664),
        "densenet201": (18_092_928, 1_920),
        "efficientnet_b0": (4_007_548, 1_280),
        "efficientnet_b1": (6_513_184, 1_280),
        "efficientnet_b2": (7_700_994, 1_408),
        "efficientnet_b3": (10_696_232, 1_536),
        "efficientnet_b4": (17_548_616, 1_792),
        "efficientnet_b5": (28_340_784, 2_048),
        "efficientnet_b6": (40_735_704, 2_304),
        "efficientnet_b7": (63_786_960, 2_560),
        "efficientnet_v2_l": (117_234_272, 1_280),
        "efficientnet_v2_m": (52_858_356, 1_280),
        "efficientnet_v2_s": (20_177_488, 1_280),
        "googlenet": (5_599_904, 1_024),
        "inception_v3": (21_785_568, 2_048),
        "mnasnet0_5": (937_512, 1_280),
        "mnasnet0_75": (1_889_208, 1_280),
        "mnasnet1_0": (3_102_312, 1_280),
        "mnasnet1_3": (5_001_256, 1_280),
        "mobilenet_v2": (2_223_872, 1_280),
        "mobilenet_v3_large": (4_202_032, 1_280),
        "mobilenet_v3_small": (1_517_856, 1_024),
        "regnet_x_16gf": (52_229_536, 2_048),
        "regnet_x_1_6gf": (8_277_136, 912),
        "regnet_x_32gf": (105_290_560, 2_520),
        "regnet_x_3_2gf": (14_287_552, 1_008),
        "regnet_x_400mf": (5_094_976, 400),
        "regnet_x_800mf": (6_586_656, 672),
        "regnet_x_8gf": (37_651_648, 1_920),
        "regnet_y_128gf": (637_419_894, 7_392),
        "regnet_y_16gf": (80_565_140, 3_024),
        "regnet_y_1_6gf": (10_313_430, 888),
        "regnet_y_32gf": (141_333_770, 3_712),
        "regnet_y_3_2gf": (17_923_338, 1_512),
        "regnet_y_400mf": (3_903_144, 440),
        "regnet_y_800mf": (5_647_512, 784),
        "regnet_y_8gf": (37_364_472, 2_016),
        "resnet101": (42_500_160, 2_048),
        "resnet152": (58_143_808, 2_048),
        "resnet18": (11_176_512, 512),
        "resnet34": (21_284_672, 512),
        "resnet50": (23_508_032, 2_048),
        "resnext101_32x8d": (86_742_336, 2_048),
        "resnext101_64x4d": (81_406_272, 2_048),
        "resnext50_32x4d": (22_979_904, 2_048),
        "shufflenet_v2_x0_5": (341_792, 1_024),
        "shufflenet_v2_x1_0": (1_253_604, 1_024),
        "shufflenet_v2_x1_5": (2_478_624, 1_024),
        "shufflenet_v2_x2_0": (5_344_996, 2_048),
        "squeezenet1_0": (735_424, 512),
        "squeezenet1_1": (722_496, 512),
        "swin_b": (86_743_224, 1_024),
        "swin_s": (48_837_258, 768),
        "swin_t": (27_519_354, 768),
        "swin_v2_b": (86_905_848, 1_024),
        "swin_v2_s": (48_968_442, 768),
        "swin_v2_t": (27_582_570, 768),
        "vgg11": (128_766_336, 4_096),
        "vgg11_bn": (128_771_840, 4_096),
        "vgg13": (128_950_848, 4_096),
        "vgg13_bn": (128_956_736, 4_096),
        "vgg16": (134_260_544, 4_096),
        "vgg16_bn": (134_268_992, 4_096),
        "vgg19": (139_570_240, 4_096),
        "vgg19_bn": (139_581_248, 4_096),
        "wide_resnet101_2": (124_837_696, 2_048),
        "wide_resnet50_2": (66_834_240, 2_048),
    },
}


def zoo_count(family: str, classes: int, resolution: int, **options: Any) -> int:
    """Return the number of weights of a network of the small-image zoo, `options` being its builder's."""
    below, features = LARGE["torchvision"].get(family, (0, 0))
    match family:
        case "efficientnet_b0":
            return below + _head(features, classes)
        case "densenet121":
            return below + 64 * 3 * (3**2 - 7**2) + _head(features, classes)
        case "convnext_tiny":
            return below + 96 * 3 * (stem_patch(resolution) ** 2 - 4**2) + _head(features, classes)
        case "vgg11_bn":
            return VGG11_BN_CONVOLUTIONS + _head(512, classes)
        case "deit_tiny":
            return _vision_transformer(Transformer(*VIT_SIZES["tiny"]), coarse_patch(resolution), classes, resolution)
        case "swin_tiny":
            below, features = LARGE["timm"][SWIN]
            missing = _narrower_windows(resolution // stem_patch(resolution), SMALL_WINDOW)
            return below + 96 * 3 * (stem_patch(resolution) ** 2 - 4**2) - missing + _head(features, classes)
        case "resnet":
            return _resnet(classes, **options)
        case "wide_resnet":
            return _wide_resnet(classes, **options)
        case "mobilenet":
            return _mobilenet(classes)
        case "shufflenet":
            return _shufflenet(classes)
        case "vision_transformer":
            return _vision_transformer(VIT_TINY, small_patch(resolution), classes, resolution)
        case _:
            return _convnet(classes, resolution, **options)


def large_count(package: str, builder: str, classes: int, resolution: int) -> int | None:
    """Return the number of weights of a `builder` of torchvision or timm; None where neither table nor formula knows it."""
    if found := VIT_NAMES[package].fullmatch(builder):
        width, depth = VIT_SIZES[found["size"]]
        return _vision_transformer(Transformer(width, depth), int(found["patch"]), classes, resolution)
    if builder not in LARGE[package]:
        return None
    below, features = LARGE[package][builder]
    return below - (_narrower_windows(resolution // 4, SWIN_TINY["window"]) if builder == SWIN else 0) + _head(features, classes)


def small_patch(resolution: int) -> int:
    """Return the side in px of the small transformer's patches."""
    return 4 if resolution >= 24 else 2


def coarse_patch(resolution: int) -> int:
    """Return the side in px of DeiT-Tiny's patches below 128 px."""
    return 8 if resolution >= 48 else small_patch(resolution)


def stem_patch(resolution: int) -> int:
    """Return the side in px of Swin-Tiny's and ConvNeXt-Tiny's patches below 128 px."""
    return 4 if resolution >= 48 else 2 if resolution >= 16 else 1


def _head(features: int, classes: int) -> int:
    return (features + 1) * classes


def _resnet(classes: int, depth: int = 18, base_width: int = 64) -> int:
    total, channels = 27 * base_width + 2 * base_width, base_width
    for stage, count in enumerate(RESNET_BLOCKS[depth]):
        width = base_width * 2**stage
        for index in range(count):
            narrow = depth == 18
            out = width if narrow else 4 * width
            total += 9 * channels * width + 9 * width**2 + 4 * width if narrow else channels * width + 13 * width**2 + 12 * width
            if channels != out or (index == 0 and stage > 0):
                total += channels * out + 2 * out
            channels = out
    return total + _head(channels, classes)


def _wide_resnet(classes: int, depth: int = 16, widen_factor: int = 2) -> int:
    total, channels = 27 * 16, 16
    for group in range(3):
        width = 16 * 2**group * widen_factor
        for _ in range((depth - 4) // 6):
            total += 2 * channels + 9 * channels * width + 2 * width + 9 * width**2 + (channels * width if channels != width else 0)
            channels = width
    return total + 2 * channels + _head(channels, classes)


def _mobilenet(classes: int) -> int:
    total, channels = 27 * 16 + 2 * 16, 16
    for expansion, full_width, count in MOBILENET_STAGES:
        for _ in range(count):
            hidden, out = channels * expansion, full_width // 2
            total += channels * hidden + 13 * hidden + hidden * out + 2 * out
            channels = out
    return total + _pointwise(channels, 1280) + _head(1280, classes)


def _shufflenet(classes: int) -> int:
    total, channels = _pointwise(3, 24), 24
    for width, count in SHUFFLENET_STAGES:
        half = width // 2
        total += 11 * channels + 2 * _pointwise(channels, half) + 11 * half + _pointwise(half, half)
        total += (count - 1) * (2 * _pointwise(half, half) + 11 * half)
        channels = width
    return total + _pointwise(channels, 1024) + _head(1024, classes)


def _pointwise(channels: int, out: int) -> int:
    """A 1x1 convolution and its batch normalisation."""
    return channels * out + 2 * out


def _convnet(classes: int, resolution: int, depth: int = 3, width: int = 128, batch_norm: bool = False) -> int:
    blocks = 27 * width + (depth - 1) * 9 * width**2 + depth * 3 * width  # either normalisation has two weights a channel
    return blocks + _head(width * (resolution // 2**depth) ** 2, classes)


def _vision_transformer(shape: Transformer, patch: int, classes: int, resolution: int) -> int:
    width, tokens = shape.width, (resolution // patch) ** 2
    embedding = (3 * patch**2 + 1) * width + (tokens + shape.class_token) * width + shape.class_token * width
    block = 12 * width**2 + (15 if shape.layer_scale else 13) * width
    return embedding + shape.depth * block + 2 * width + _head(width, classes)


def _narrower_windows(patches: int, widest: int) -> int:
    """Return how many position biases Swin-Tiny lacks beside windows of 7: it is `patches` wide, its windows `widest` or less."""
    missing = 0
    for stage, (blocks, heads) in enumerate(zip(SWIN_TINY["blocks"], SWIN_TINY["heads"], strict=True)):
        size = min(widest, -(-patches // 2**stage))
        missing += blocks * heads * ((2 * SWIN_TINY["window"] - 1) ** 2 - (2 * size - 1) ** 2)
    return missing

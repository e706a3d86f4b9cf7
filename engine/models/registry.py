"""Networks by name: which there are, whether one can take a resolution (neither needs torch), and building one.

Below 128 px a name means the network of this room, in a form for small images; from 128 px on it means torchvision's classifier of that
name, or timm's. ConvNets exist at every resolution, since the condensation literature uses deeper ones for larger images, and so does
whatever timm builds, without a change.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.errors import UserError
from engine.models.counts import coarse_patch, large_count, small_patch, stem_patch, zoo_count

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 8
LARGE = 128


@dataclass(frozen=True)
class ModelInfo:
    """One line of `edc models`.

    `resolutions` is the smallest and largest side in px (None: no limit), `parameters` the number at 10 classes: below 128 px where the
    model exists there (at 32 px where it depends on the side), at 224 px otherwise; None for patterns.
    """

    name: str
    family: str
    resolutions: tuple[int, int | None]
    normalisation: Literal["batch", "instance", "layer", "none"] | None
    parameters: int | None
    help: str


EVERY, SMALL_ONLY, LARGE_ONLY = (SMALLEST, None), (SMALLEST, LARGE - 1), (LARGE, None)

MODELS = (
    ModelInfo("resnet18", "resnet", EVERY, "batch", 11_173_962, "The usual observer and student; 3x3 stem, no max-pool below 128 px."),
    ModelInfo("resnet50", "resnet", EVERY, "batch", 23_520_842, "Bottleneck residual network of depth 50."),
    ModelInfo("resnet101", "resnet", EVERY, "batch", 42_512_970, "Bottleneck residual network of depth 101."),
    ModelInfo("resnet18-w<base>", "resnet", SMALL_ONLY, "batch", None, "ResNet-18, -50 or -101, <base> channels wide at first, not 64."),
    ModelInfo("mobilenet-v2", "mobilenet", EVERY, "batch", 697_546, "MobileNetV2; of half width below 128 px."),
    ModelInfo("shufflenet-v2-0.5", "shufflenet", EVERY, "batch", 351_466, "ShuffleNetV2 of width 0.5; 1x1 stem below 128 px."),
    ModelInfo("wrn-16-2", "wide_resnet", SMALL_ONLY, "batch", 691_674, "Wide residual network of depth 16 and widening factor 2."),
    ModelInfo("wrn-<depth>-<k>", "wide_resnet", SMALL_ONLY, "batch", None, "Wide residual network of depth 6n+4 and widening factor k."),
    ModelInfo("convnet-w128", "convnet", EVERY, "instance", 320_010, "Three blocks of 128 channels, the usual network without BatchNorm."),
    ModelInfo("convnet-w32", "convnet", EVERY, "instance", 24_714, "Three blocks of 32 channels, the smallest listed."),
    ModelInfo("convnet-d1", "convnet", EVERY, "instance", 331_530, "One block of 128 channels."),
    ModelInfo("convnet-d2", "convnet", EVERY, "instance", 233_610, "Two blocks of 128 channels."),
    ModelInfo("convnet-d<depth>-w<width>", "convnet", EVERY, "instance", None, "<depth> blocks (default 3) of <width> channels (128)."),
    ModelInfo("convnet-d<depth>-w<width>-bn", "convnet", EVERY, "batch", None, "The same with BatchNorm, which can be matched too."),
    ModelInfo("vit-tiny", "vision_transformer", SMALL_ONLY, "layer", 810_122, "A small vision transformer with 4 px patches, or 2 px."),
    ModelInfo("efficientnet-b0", "torchvision", EVERY, "batch", 4_020_358, "EfficientNet-B0; stride-1 stem below 128 px."),
    ModelInfo("alexnet", "torchvision", LARGE_ONLY, "none", 57_044_810, "AlexNet, an observer on ImageNet-1k without normalisation."),
    ModelInfo("densenet121", "torchvision", EVERY, "batch", 6_956_426, "DenseNet of depth 121; 3x3 stem, no max-pool below 128 px."),
    ModelInfo("vgg11-bn", "torchvision", EVERY, "batch", 9_231_114, "VGG-11 with BatchNorm; one linear layer below 128 px."),
    ModelInfo("convnext-tiny", "torchvision", EVERY, "layer", 27_824_362, "ConvNeXt-Tiny; 2 px patches below 128 px, 4 px from 48 on."),
    ModelInfo("vit-b-16", "torchvision", LARGE_ONLY, "layer", 85_806_346, "Vision transformer of base size with 16 px patches."),
    ModelInfo("deit-tiny", "timm", EVERY, "layer", 5_362_762, "DeiT-Tiny, 16 px patches; 4 px below 128 px, 8 px from 48 on."),
    ModelInfo("swin-tiny", "timm", EVERY, "layer", 27_505_108, "Swin-Tiny, 4 px patches, windows of 7; 2 px and 4 below 128 px."),
    ModelInfo("<torchvision name>", "torchvision", LARGE_ONLY, None, None, "Any of torchvision's classifiers, such as resnext50-32x4d."),
    ModelInfo("timm/<name>", "timm", EVERY, None, None, "Any architecture of timm, as timm builds it for that side."),
)

TIMM_NAMES = {"deit-tiny": "deit_tiny_patch16_224", "swin-tiny": "swin_tiny_patch4_window7_224"}

_NUMBER = r"[1-9][0-9]{0,3}"
_SMALL_NAMES = {
    "resnet": re.compile(rf"resnet(?P<depth>18|50|101)(-w(?P<base_width>{_NUMBER}))?"),
    "wide_resnet": re.compile(rf"wrn-(?P<depth>{_NUMBER})-(?P<widen_factor>{_NUMBER})"),
    "mobilenet": re.compile(r"mobilenet-v2"),
    "shufflenet": re.compile(r"shufflenet-v2-0\.5"),
    "vision_transformer": re.compile(r"vit-tiny"),
    "efficientnet_b0": re.compile(r"efficientnet-b0"),
    "densenet121": re.compile(r"densenet121"),
    "vgg11_bn": re.compile(r"vgg11-bn"),
    "convnext_tiny": re.compile(r"convnext-tiny"),
    "deit_tiny": re.compile(r"deit-tiny"),
    "swin_tiny": re.compile(r"swin-tiny"),
    "convnet": re.compile(rf"convnet(?=-[dw])(-d(?P<depth>{_NUMBER}))?(-w(?P<width>{_NUMBER}))?(?P<batch_norm>-bn)?"),
}


# Networks for small images that cut them into patches: the patches' side in px at a side of the images.
PATCHES = {"vision_transformer": small_patch, "deit_tiny": coarse_patch, "swin_tiny": stem_patch}
BY_RESOLUTION = ("convnext_tiny", "deit_tiny", "swin_tiny")  # of engine.models.small those that are built for the images' side


def list_models() -> list[ModelInfo]:
    """Every named model and name pattern, the small-image zoo first."""
    return list(MODELS)


def check_model(name: str, resolution: int) -> None:
    """Check that `name` is a model that takes square images of `resolution` px, without importing torch.

    Raises UserError naming the nearest names, or saying which resolutions the model takes.
    """
    if resolution < SMALLEST:
        raise UserError(f"models take images of {SMALLEST} px and more, not {resolution} px")
    small = _read_small_name(name)
    if small is not None and (resolution < LARGE or small[0] == "convnet"):
        _check_small(name, *small, resolution)
    elif resolution >= LARGE or name.startswith("timm/"):
        _check_large(name, resolution)
    elif _is_large_name(name):
        raise _wrong_size(name, f"of {LARGE} px and more", resolution)
    else:
        raise _unknown(name, resolution, _names_at(resolution))


def normalisation(name: str) -> str | None:
    """Return how a network normalises inside ("batch", "instance", "layer" or "none"); None when the list does not say."""
    small = _read_small_name(name)
    if small is not None and small[0] == "convnet":
        return "batch" if small[1].get("batch_norm") else "instance"
    listed = next((info.normalisation for info in MODELS if info.name == name), None)
    return listed or ("batch" if small is not None else None)


def published_by(name: str, resolution: int) -> str | None:
    """Return the package that builds a network as it publishes it, torchvision or timm; None for one of this room's own."""
    small = _read_small_name(name)
    own = small is not None and (resolution < LARGE or small[0] == "convnet")
    return None if own else builder_of(name)[0]


def parameter_count(name: str, classes: int, resolution: int) -> int:
    """Return the number of weights that `create_model` gives a network, without importing torch.

    Raises UserError as `check_model` does, and for networks of torchvision and timm that this program has no count of.
    """
    check_model(name, resolution)
    small = _read_small_name(name)
    if small is not None and (resolution < LARGE or small[0] == "convnet"):
        return zoo_count(small[0], classes, resolution, **small[1])
    count = large_count(*builder_of(name), classes, resolution)
    if count is None:
        right = 'set labels.mode = "stored", whose labels need no network to be kept'
        raise UserError(f"how many weights model {name!r} has is not known without building it; {right}")
    return count


def activation_count(name: str, resolution: int) -> int:
    """Return about how many values a network keeps of an image for its backward pass; 0 for one that is not counted or does not exist."""
    from engine.models.activations import kept_values

    small = _read_small_name(name)
    if small is None or (resolution >= LARGE and small[0] != "convnet"):
        return 0
    return kept_values(small[0], resolution, **small[1])


def create_model(name: str, classes: int, resolution: int) -> "nn.Module":
    """Build `name` with random weights: (B, 3, resolution, resolution) float in normalised units -> (B, classes) logits.

    Weights are drawn from torch's global generator, which the caller seeds. Raises UserError as `check_model` does, and where a
    constructor of torchvision or timm refuses the resolution.
    """
    check_model(name, resolution)
    if classes < 1:
        raise UserError(f"model {name!r} needs at least 1 class, not {classes}")
    small = _read_small_name(name)
    if small is None or (resolution >= LARGE and small[0] != "convnet"):
        return _create_large(name, classes, resolution)
    family, options = small
    match family:
        case "resnet":
            from engine.models.resnet import resnet

            return resnet(classes=classes, **options)
        case "wide_resnet":
            from engine.models.wide_resnet import wide_resnet

            return wide_resnet(classes=classes, **options)
        case "mobilenet":
            from engine.models.mobilenet import mobilenet_v2

            return mobilenet_v2(classes=classes)
        case "shufflenet":
            from engine.models.shufflenet import shufflenet_v2

            return shufflenet_v2(classes=classes)
        case "vision_transformer":
            from engine.models.transformer import vit_tiny

            return vit_tiny(classes=classes, resolution=resolution)
        case "efficientnet_b0" | "densenet121" | "vgg11_bn" | "convnext_tiny" | "deit_tiny" | "swin_tiny":
            from engine.models import small as forms

            return getattr(forms, family)(classes=classes, **({"resolution": resolution} if family in BY_RESOLUTION else {}))
        case _:
            from engine.models.convnet import convnet

            return convnet(classes=classes, resolution=resolution, **options)


def _create_large(name: str, classes: int, resolution: int) -> "nn.Module":
    from engine.models.large import timm_model, torchvision_model

    package, builder = builder_of(name)
    create = timm_model if package == "timm" else torchvision_model
    return create(builder, classes=classes, resolution=resolution)


def _read_small_name(name: str) -> tuple[str, dict[str, Any]] | None:
    """The family of the zoo and its builder's options, or None when the name is not one of the zoo's."""
    for family, pattern in _SMALL_NAMES.items():
        if found := pattern.fullmatch(name):
            given = {key: value for key, value in found.groupdict().items() if value is not None}
            return family, {key: int(value) if value.isdigit() else True for key, value in given.items()}
    return None


def _check_small(name: str, family: str, options: dict[str, Any], resolution: int) -> None:
    if family == "wide_resnet" and (options["depth"] < 10 or options["depth"] % 6 != 4):
        raise UserError(f"model {name!r}: the depth of a wide residual network is 10, 16, 22, 28, … (6n+4), not {options['depth']}")
    if family in PATCHES and resolution % PATCHES[family](resolution):
        raise _untiled(name, PATCHES[family](resolution), resolution)
    if family == "convnet":
        depth = options.get("depth", 3)
        if resolution >> depth == 0:
            deepest = resolution.bit_length() - 1
            raise UserError(
                f"model {name!r} halves the image {depth} times and leaves nothing of {resolution} px; "
                f"it needs 2**{depth} px, and at {resolution} px the depth can be at most {deepest}"
            )


def _check_large(name: str, resolution: int) -> None:
    if not _is_large_name(name):
        if _read_small_name(name) is not None:
            raise _wrong_size(name, f"below {LARGE} px", resolution)
        if name.startswith("timm/"):
            raise _unknown(name, resolution, [f"timm/{builder}" for builder in _builders("timm")])
        raise _unknown(name, resolution, [*_names_at(resolution), *_builders("torchvision")])
    _, builder = builder_of(name)
    patch = re.search(r"(?:^vit_[blh]_|_patch)(\d+)", builder)
    if patch and resolution % int(patch[1]):
        raise _untiled(name, int(patch[1]), resolution)


def _untiled(name: str, patch: int, resolution: int) -> UserError:
    return UserError(f"model {name!r} takes images whose side is a multiple of its patches' {patch} px, not {resolution} px")


def _wrong_size(name: str, sizes: str, resolution: int) -> UserError:
    near = get_close_matches(name, _names_at(resolution), n=2, cutoff=0)
    return UserError(f"model {name!r} takes images {sizes}, not {resolution} px; nearest that does: {' or '.join(near)}")


def _unknown(name: str, resolution: int, known: list[str]) -> UserError:
    longer = sorted((other for other in known if name and other.startswith(name)), key=len)
    near = longer[:3] or get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.6)
    advice = f"did you mean {' or '.join(near)}?" if near else "`edc models` lists what there is"
    return UserError(f"there is no model {name!r} for {resolution} px images; {advice}")


def _names_at(resolution: int) -> list[str]:
    """The listed names (no patterns) that exist at `resolution`, whatever the depth."""
    named = (info for info in MODELS if "<" not in info.name)
    return [info.name for info in named if info.resolutions[0] <= resolution <= (info.resolutions[1] or resolution)]


def builder_of(name: str) -> tuple[str, str]:
    """Return the package and the builder's name in it: shufflenet-v2-0.5 -> (torchvision, shufflenet_v2_x0_5)."""
    if name in TIMM_NAMES or name.startswith("timm/"):
        return "timm", TIMM_NAMES.get(name, name.removeprefix("timm/"))
    return "torchvision", re.sub(r"v2-(\d)", r"v2_x\1", name).replace("-", "_").replace(".", "_")


def _is_large_name(name: str) -> bool:
    package, builder = builder_of(name)
    return builder in _builders(package)


@cache
def _builders(package: str) -> tuple[str, ...]:
    """The classifiers that torchvision or timm registers, sorted.

    Read from the package's source, because importing it takes seconds and a wrong name should be refused before anything has run.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"{package} is not installed, so its models cannot be used")
    names: set[str] = set()
    for file in (Path(spec.origin).parent / "models").glob("*.py"):
        names.update(re.findall(r"^@register_model\b.*?^def (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    return tuple(sorted(names))

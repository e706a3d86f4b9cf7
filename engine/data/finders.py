"""Looking for a dataset's layouts in a folder: each finder tells the layout and its paths, None where there is nothing of the kind."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from engine.data.trees import shown
from engine.errors import UserError

Found = tuple[str, dict[str, Path]]

IMAGENET_TARS = {"train": "ILSVRC2012_img_train.tar", "test": "ILSVRC2012_img_val.tar", "devkit": "ILSVRC2012_devkit_t12.tar.gz"}
TINY = "tiny-imagenet-200"
IMAGENET_21K = "imagenet21k_resized"


def find_tree(folder: Path) -> Found | None:
    """Find `train/<class>/…` with `test/<class>/…` or `val/<class>/…`; raises UserError for the one without the other."""
    return _find_splits(folder, "tree")


def _find_splits(folder: Path, layout: str) -> Found | None:
    train = folder / "train"
    if not train.is_dir():
        return None
    for name in ("test", "val"):
        if (folder / name).is_dir():
            return layout, {"train": train, "test": folder / name}
    raise UserError(f"{shown(folder)} has train/ but neither test/ nor val/: expected test/<class>/… beside it")


def find_idx(folder: Path) -> Found | None:
    """Find the four files of Fashion-MNIST, plain or gzip, also where torchvision puts them."""
    parts = {"train-images": "train-images-idx3-ubyte", "train-labels": "train-labels-idx1-ubyte"}
    parts |= {"test-images": "t10k-images-idx3-ubyte", "test-labels": "t10k-labels-idx1-ubyte"}
    for place in (folder, folder / "raw", folder / "FashionMNIST" / "raw"):
        candidates = {part: (place / name, place / f"{name}.gz") for part, name in parts.items()}
        paths = {part: path for part, pair in candidates.items() for path in pair[::-1] if path.is_file()}
        if paths:
            return "idx", _complete(paths, parts, place)
    return None


def find_cifar10(folder: Path) -> Found | None:
    """Find the six batches of CIFAR-10, or their archive."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return _find_pickles(folder, "cifar-10", "cifar", names)


def find_cifar100(folder: Path) -> Found | None:
    """Find the two files of CIFAR-100, or their archive."""
    return _find_pickles(folder, "cifar-100", "cifar100", ["train", "test"])


def _find_pickles(folder: Path, dataset: str, layout: str, names: list[str]) -> Found | None:
    inner = {"cifar-10": "cifar-10-batches-py", "cifar-100": "cifar-100-python"}[dataset]
    for place in (folder / inner, folder):
        paths = {name: place / name for name in names if (place / name).is_file()}
        if paths:
            return f"{layout}-batches", _complete(paths, dict(zip(names, names, strict=True)), place)
    path = folder if folder.is_file() else folder / f"{dataset}-python.tar.gz"
    return (f"{layout}-archive", {"archive": path}) if path.is_file() else None


def _complete(paths: dict[str, Path], names: Mapping[str, str], place: Path) -> dict[str, Path]:
    missing = [name for part, name in names.items() if part not in paths]
    if missing:
        raise UserError(f"{shown(place)} lacks {', '.join(missing)}: put the missing files beside the others")
    return paths


def find_digits(folder: Path) -> Found | None:
    """Find scikit-learn's table of digits."""
    path = folder / "digits.csv.gz"
    return ("digits-table", {"table": path}) if path.is_file() else None


def scikit_learn_data() -> tuple[Path, ...]:
    """Return the folder of scikit-learn's bundled tables, found without importing it (which takes a second)."""
    found = importlib.util.find_spec("sklearn")
    return tuple(Path(folder) / "datasets" / "data" for folder in found.submodule_search_locations or ()) if found else ()


def find_tiny_imagenet(folder: Path) -> Found | None:
    """Find Tiny-ImageNet unpacked (`train/<class>/images`, `val` with its annotations or sorted into classes), or its zip file."""
    for place in (folder / TINY, folder):
        train, test = place / "train", place / "val"
        if train.is_dir() and test.is_dir():
            return "tiny-tree", {"train": train, "test": test}
    if (tree := _find_splits(folder, "tiny-tree")) is not None:
        return tree
    path = folder if folder.is_file() else folder / f"{TINY}.zip"
    return ("tiny-zip", {"archive": path}) if path.is_file() else None


def find_imagenet(folder: Path) -> Found | None:
    """Find ImageNet as folders `train/<number>`, `val/<number>`, or as the three original tar archives."""
    if (tree := _find_splits(folder, "imagenet-tree")) is not None:
        return tree
    paths = {part: folder / name for part, name in IMAGENET_TARS.items() if (folder / name).is_file()}
    return ("imagenet-tars", _complete(paths, IMAGENET_TARS, folder)) if paths else None


def find_imagenet_21k(folder: Path) -> Found | None:
    """Find ImageNet-21K-P as folders `imagenet21k_train/<number>`, `imagenet21k_val/<number>`, or as one uncompressed tar archive."""
    for place in (folder / IMAGENET_21K, folder):
        parts = {"train": place / "imagenet21k_train", "test": place / "imagenet21k_val"}
        if parts["train"].is_dir():
            missing = {part: path for part, path in parts.items() if not path.is_dir()}
            if missing:
                raise UserError(f"{shown(place)} has imagenet21k_train/ but no imagenet21k_val/: unpack it beside the other")
            return "imagenet-tree", parts
    path = folder if folder.is_file() else folder / f"{IMAGENET_21K}.tar"
    if path.is_file() and path.suffix == ".tar":
        return "imagenet-21k-tar", {"archive": path}
    packed = folder if folder.is_file() else folder / f"{IMAGENET_21K}.tar.gz"
    if packed.is_file():
        raise UserError(f"{shown(packed)} can only be read from its beginning to its end: unpack it with tar -xzf, or gunzip it to a .tar")
    return _find_splits(folder, "imagenet-tree")

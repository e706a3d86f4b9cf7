"""The classes of known datasets in label order, and what WordNet's numbers mean in words."""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_MNIST = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Fine labels in the order of the archive's own `meta`, which is that of the alphabet.
CIFAR100 = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy", "bridge", "bus"),
    *("butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch"),
    *("crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo"),
    *("keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse"),
    *("mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy"),
    *("porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper"),
    *("snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television"),
    *("tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"),
)
# In the order of the EDC release (CLASS10), which is not that of the alphabet and so not that of the folders.
IMAGENET10 = (
    *("n02869837", "n01749939", "n02488291", "n02107142", "n13037406", "n02091831", "n04517823", "n04589890", "n03062245", "n01773797"),
)


def imagenet_1k() -> tuple[str, ...]:
    """Return the 1,000 WordNet numbers of ImageNet-1k, sorted, which is the label order of torchvision's and timm's weights."""
    return tuple(_lines("imagenet_synsets.txt"))


def imagenet_21k_p() -> tuple[str, ...]:
    """Return the 10,450 WordNet numbers of ImageNet-21K-P (winter 2021), sorted, which is the label order of the published weights."""
    return tuple(_lines("imagenet21k_miil_w21_synsets.txt"))


def titles_of(numbers: Sequence[str], words: Path | None = None) -> tuple[str, ...]:
    """Return a short title for each WordNet number, each another one: `crane (n02012849)` where several would be called alike.

    The titles come from the file `words` of lines `<number> <tab> <title>, <synonym>, …` where it is there, else from timm's list. A
    number that neither knows is its own title.
    """
    known = _titles(words.read_text(encoding="utf-8", errors="replace").splitlines()) if words else all_titles()
    titles = [known.get(number, number) for number in numbers]
    counts: dict[str, int] = {}
    for title in titles:
        counts[title] = counts.get(title, 0) + 1
    return tuple(title if counts[title] == 1 else f"{title} ({number})" for number, title in zip(numbers, titles, strict=True))


@cache
def all_titles() -> Mapping[str, str]:
    """Return the first word or phrase for each of the 21,844 WordNet numbers that timm lists."""
    return _titles(_lines("imagenet_synset_to_lemma.txt"))


def _titles(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line.split("\t", 1) for line in lines if "\t" in line)
    return {number.strip(): meaning.split(",")[0].strip() for number, meaning in pairs}


@cache
def _lines(name: str) -> tuple[str, ...]:
    """Return the lines of one of timm's lists, found without importing timm (which takes a second)."""
    found = importlib.util.find_spec("timm")
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "data" / "_info" / name
        if path.is_file():
            return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    return ()

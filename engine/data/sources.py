"""Which datasets there are, where their files lie, and what they hold; nothing is decoded here."""

import difflib
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.data.trees import check_classes, scan_split, shown
from engine.errors import RunError, UserError
from engine.files import digest_file, read_json, write_json

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_MNIST_CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SMALLEST_RESOLUTION, LARGEST_RESOLUTION = 8, 1024
MEMO_ENTRIES = 200


@dataclass(frozen=True)
class ClassIndex:
    """The class names in label order: label 3 is `names[3]`."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the names in order: equal exactly where labels mean the same."""
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class DatasetInfo:
    """What can be said of a dataset without its files; `class_count` and `image_counts` (train, test) are None for the user's own."""

    name: str
    title: str
    resolution: int  # the working resolution when a project names none, pixels
    class_count: int | None
    image_counts: tuple[int, int] | None
    mirror: bool  # whether an image keeps its meaning when flipped left to right
    where: str  # how to obtain it


@dataclass(frozen=True)
class Source:
    """A dataset found on disk; `paths` are its files or folders by their part in the layout, counts are images by class."""

    name: str
    layout: str
    paths: Mapping[str, Path]
    resolution: int
    classes: ClassIndex
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    fingerprint: str  # SHA-256 of the content, hex
    mirror: bool


@dataclass(frozen=True)
class Download:
    """A file to fetch: address, size in bytes, MD5 in hex."""

    url: str
    size: int
    md5: str

    @property
    def file_name(self) -> str:
        """The last part of the address, which is also the file's name on disk."""
        return self.url.rpartition("/")[2]


Found = tuple[str, dict[str, Path]]


@dataclass(frozen=True)
class Dataset:
    """One entry of the list: facts, the finders that look for its layouts in a folder, and what to fetch."""

    info: DatasetInfo
    classes: tuple[str, ...] | None  # in label order; None: the class folders' names, sorted
    finders: tuple[Callable[[Path], Found | None], ...]
    expected: str  # which files go where, for the message when they are missing
    other_names: tuple[str, ...] = ()  # folders of the data root searched after the one of the dataset's name
    system_folders: tuple[Path, ...] = ()  # searched last
    downloads: tuple[Download, ...] = ()


def _find_tree(folder: Path) -> Found | None:
    train = folder / "train"
    if not train.is_dir():
        return None
    for name in ("test", "val"):
        if (folder / name).is_dir():
            return "tree", {"train": train, "test": folder / name}
    raise UserError(f"{shown(folder)} has train/ but neither test/ nor val/: expected test/<class>/… beside it")


def _find_idx(folder: Path) -> Found | None:
    parts = {"train-images": "train-images-idx3-ubyte", "train-labels": "train-labels-idx1-ubyte"}
    parts |= {"test-images": "t10k-images-idx3-ubyte", "test-labels": "t10k-labels-idx1-ubyte"}
    for place in (folder, folder / "raw", folder / "FashionMNIST" / "raw"):
        candidates = {part: (place / name, place / f"{name}.gz") for part, name in parts.items()}
        paths = {part: path for part, pair in candidates.items() for path in pair[::-1] if path.is_file()}
        if paths:
            return "idx", _complete(paths, parts, place)
    return None


def _find_cifar_batches(folder: Path) -> Found | None:
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for place in (folder / "cifar-10-batches-py", folder):
        paths = {name: place / name for name in names if (place / name).is_file()}
        if paths:
            return "cifar-batches", _complete(paths, dict(zip(names, names, strict=True)), place)
    return None


def _complete(paths: dict[str, Path], names: Mapping[str, str], place: Path) -> dict[str, Path]:
    missing = [name for part, name in names.items() if part not in paths]
    if missing:
        raise UserError(f"{shown(place)} lacks {', '.join(missing)}: put the missing files beside the others")
    return paths


def _find_cifar_archive(folder: Path) -> Found | None:
    path = folder if folder.is_file() else folder / "cifar-10-python.tar.gz"
    return ("cifar-archive", {"archive": path}) if path.is_file() else None


def _find_digits(folder: Path) -> Found | None:
    path = folder / "digits.csv.gz"
    return ("digits-table", {"table": path}) if path.is_file() else None


def _scikit_learn_data() -> tuple[Path, ...]:
    """The folder of scikit-learn's bundled tables, found without importing it (which takes a second)."""
    found = importlib.util.find_spec("sklearn")
    return tuple(Path(folder) / "datasets" / "data" for folder in found.submodule_search_locations or ()) if found else ()


_FASHION_MNIST_HOST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"

DATASETS = (
    Dataset(
        DatasetInfo("digits", "handwritten digits, 8x8 grey", 16, 10, (1198, 599), mirror=False, where="comes with scikit-learn"),
        classes=tuple("0123456789"),
        finders=(_find_digits,),
        expected="digits.csv.gz, which scikit-learn installs",
        system_folders=_scikit_learn_data(),
    ),
    Dataset(
        DatasetInfo(
            "fashion-mnist", "Zalando's articles, 28x28 grey", 32, 10, (60_000, 10_000), mirror=True,
            where="edc datasets --fetch fashion-mnist, or Debian's package dataset-fashion-mnist",
        ),
        classes=FASHION_MNIST_CLASSES,
        finders=(_find_idx,),
        expected="train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz",
        other_names=("FashionMNIST",),
        system_folders=(Path("/usr/share/datasets/fashion-mnist"),),
        downloads=(
            Download(f"{_FASHION_MNIST_HOST}/train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            Download(f"{_FASHION_MNIST_HOST}/train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            Download(f"{_FASHION_MNIST_HOST}/t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            Download(f"{_FASHION_MNIST_HOST}/t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    Dataset(
        DatasetInfo("cifar10", "CIFAR-10, 32x32 colour", 32, 10, (50_000, 10_000), mirror=True, where="edc datasets --fetch cifar10"),
        classes=CIFAR10_CLASSES,
        finders=(_find_cifar_batches, _find_cifar_archive, _find_tree),
        expected="cifar-10-python.tar.gz, the folder cifar-10-batches-py, or images as train/<class>/… and test/<class>/…",
        other_names=("cifar-10-batches-py",),
        downloads=(
            Download("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
        ),
    ),
    Dataset(
        DatasetInfo("folder", "your own images", 32, None, None, mirror=True, where="dataset.root = a folder with train/ and test/"),
        classes=None,
        finders=(_find_tree,),
        expected="images as train/<class>/… and test/<class>/… (or val/<class>/…)",
    ),
)


def list_datasets() -> list[DatasetInfo]:
    """Return what can be said of every known dataset without touching the disk."""
    return [dataset.info for dataset in DATASETS]


def _dataset(name: str) -> Dataset:
    by_name = {dataset.info.name: dataset for dataset in DATASETS}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, 1)
        raise UserError(f"unknown dataset {name!r}: " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(by_name)}"))
    return by_name[name]


def locate(name: str, root: Path | None, data_root: Path, resolution: int | None, cache: Path | None = None) -> Source:
    """Find a dataset's files in `root`, or else in `<data_root>/<name>` and where systems put them, without downloading.

    `resolution` in pixels, None for the dataset's own. The fingerprint is remembered in `cache` by the files' sizes and times, so only the
    first call reads them all. Raises UserError when the files are missing (saying which go where), incomplete or damaged, or when class
    folders are empty or differ.
    """
    dataset = _dataset(name)
    side = dataset.info.resolution if resolution is None else resolution
    if not SMALLEST_RESOLUTION <= side <= LARGEST_RESOLUTION:
        raise UserError(f"resolution {side} for {name}: expected {SMALLEST_RESOLUTION} to {LARGEST_RESOLUTION} pixels")
    try:
        layout, paths = _find(dataset, root.expanduser().absolute() if root else None, data_root.expanduser().absolute())
        if layout == "tree":
            classes, counts, files = _tree(paths, dataset.classes)
            facts = _remembered(cache, layout, files, lambda: counts)
        else:
            classes = list(dataset.classes or ())
            files = {part: str(path) for part, path in paths.items()}
            facts = _remembered(cache, layout, files, lambda: _counts(layout, paths, classes))
    except OSError as error:
        place = error.filename if error.filename is not None else root or data_root
        raise UserError(f"{name}: cannot read {shown(os.fsdecode(place))}: {error.strerror or error}") from error
    return Source(
        name=name, layout=layout, paths=paths, resolution=side, classes=ClassIndex(tuple(classes)), mirror=dataset.info.mirror,
        train_counts=tuple(facts["train"]), test_counts=tuple(facts["test"]), fingerprint=facts["fingerprint"],
    )


def found_in(name: str, data_root: Path) -> Path | None:
    """Return the folder in which a dataset's files lie on this machine, looking without reading them; None when they are not here."""
    try:
        _, paths = _find(_dataset(name), None, data_root)
    except (UserError, OSError):
        return None
    return next(iter(paths.values())).parent


def _find(dataset: Dataset, root: Path | None, data_root: Path) -> Found:
    name = dataset.info.name
    if root is not None:
        if not root.exists():
            raise UserError(f"{name}: there is no folder {shown(root)}: dataset.root must hold {dataset.expected}")
        folders = [root]
    elif dataset.classes is None:
        raise UserError(f"{name}: no dataset.root given: it must name a folder that holds {dataset.expected}")
    else:
        folders = [data_root / name, *(data_root / other for other in dataset.other_names), *dataset.system_folders]
    for folder in folders:
        for finder in dataset.finders:
            if found := finder(folder):
                return found
    remedy = f", or run: edc datasets --fetch {name}" if dataset.downloads else ""
    raise UserError(f"{name} not found: {shown(folders[0])} must hold {dataset.expected}{remedy}")


def _tree(folders: Mapping[str, Path], expected: tuple[str, ...] | None) -> tuple[list[str], dict[str, list[int]], dict[str, str]]:
    """Return class names in label order, image counts by split and class, and each file's path by its place in the tree."""
    splits = {split: scan_split(folders[split]) for split in ("train", "test")}
    classes = check_classes(splits, folders, expected)
    counts = {split: [len(splits[split][name]) for name in classes] for split in splits}
    files = {f"{split}/{name}/{path.rpartition(os.sep)[2]}": path for split in splits for name in classes for path in splits[split][name]}
    return classes, counts, files


def _counts(layout: str, paths: Mapping[str, Path], classes: list[str]) -> dict[str, list[int]]:
    """Count images by class in both splits, which for these layouts means to read them."""
    from engine.data.layouts import read_layout  # brings numpy, which a mere list of datasets does not need

    counts = {}
    for split, raw in zip(("train", "test"), read_layout(layout, paths, classes), strict=True):
        labels = raw.labels.tolist()
        counts[split] = [labels.count(label) for label in range(len(classes))]
        empty = [name for name, count in zip(classes, counts[split], strict=True) if not count]
        if empty:
            raise UserError(f"{shown(next(iter(paths.values())).parent)}: no {split} image of class {empty[0]!r}: every class needs one")
    return counts


def _remembered(cache: Path | None, layout: str, files: Mapping[str, str], count: Callable[[], dict[str, list[int]]]) -> dict:
    """Return `{"fingerprint": hex, "train": counts, "test": counts}`, from the memo where no file changed its size or time since."""
    stats = ((part, path, os.stat(path)) for part, path in files.items())  # noqa: PTH116 - strings, for a million of them
    key = _hash(layout, ((part, path, stat.st_size, stat.st_mtime_ns) for part, path, stat in stats))
    memo_file = cache / "fingerprints.json" if cache else None
    memo = _read_memo(memo_file) if memo_file else {}
    if key in memo:
        return memo[key]
    facts = {"fingerprint": _hash(layout, ((part, digest_file(Path(path))) for part, path in sorted(files.items()))), **count()}
    if memo_file:
        try:
            memo_file.parent.mkdir(parents=True, exist_ok=True)
            write_json(memo_file, dict(list(memo.items())[1 - MEMO_ENTRIES :]) | {key: facts})
        except (OSError, RunError):
            return facts  # a memo only saves time: the next call reads the files again
    return facts


def _hash(layout: str, rows: Iterable[tuple]) -> str:
    total = hashlib.sha256(layout.encode())
    for row in rows:
        total.update(json.dumps(row).encode())
    return total.hexdigest()


def _read_memo(path: Path) -> dict[str, dict]:
    try:
        memo = read_json(path)
    except (OSError, ValueError):
        return {}
    wanted = {"fingerprint", "train", "test"}
    items = memo.items() if isinstance(memo, dict) else ()
    return {key: facts for key, facts in items if isinstance(facts, dict) and wanted <= set(facts)}


def fetch(name: str, data_root: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Download a dataset's files to `<data_root>/<name>` and return that folder; `progress` is told bytes done and bytes in all.

    Raises UserError when there is nothing to fetch, the server cannot be reached or sends something else; RunError when the disk refuses.
    """
    from engine.data.download import download  # brings the HTTP client, which a list of datasets does not need

    dataset = _dataset(name)
    if not dataset.downloads:
        raise UserError(f"{name} is not fetched: {dataset.info.where}")
    folder, total, before = data_root / name, sum(file.size for file in dataset.downloads), 0
    for file in dataset.downloads:
        report = (lambda done, before=before: progress(before + done, total)) if progress else None
        download(file.url, file.md5, folder / file.file_name, report)
        before += file.size
    return folder

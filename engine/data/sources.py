"""Where a dataset's files lie, and what they hold; nothing is decoded here."""

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.data import archives, class_lists
from engine.data.datasets import DATASETS, USUAL, Dataset, DatasetInfo, Preparation
from engine.data.finders import Found
from engine.data.listing import LISTINGS, Listing, listing
from engine.data.trees import check_not_empty, shown
from engine.errors import RunError, UserError
from engine.files import digest_file, read_json, write_json

SMALLEST_RESOLUTION, LARGEST_RESOLUTION = 8, 1024
MEMO_ENTRIES = 200
# Of datasets with more files than these not every byte is read to know them again: that would take an hour for ImageNet-1k.
FILES_READ_WHOLE = 200_000


@dataclass(frozen=True)
class ClassIndex:
    """The class names in label order: label 3 is `names[3]`. `titles` are what people call them, where that is something else."""

    names: tuple[str, ...]
    titles: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shown(self) -> tuple[str, ...]:
        """What to show for each class: its title, else its name; no two are the same."""
        return self.titles or self.names

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the names in order: equal exactly where labels mean the same."""
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()[:16]


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
    preparation: Preparation = USUAL

    @property
    def encoded(self) -> bool:
        """Whether the images lie in files of their own or in archives of such, and so can be decoded when they are needed."""
        return self.layout in LISTINGS

    @property
    def decoded_bytes(self) -> int:
        """What all images take as uint8 (N, 3, R, R), bytes."""
        return (sum(self.train_counts) + sum(self.test_counts)) * 3 * self.resolution**2


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
        facts = _facts(dataset, layout, paths, cache)
    except OSError as error:
        place = error.filename if error.filename is not None else root or data_root
        raise UserError(f"{name}: cannot read {shown(os.fsdecode(place))}: {error.strerror or error}") from error
    words = Path(facts["words"]) if facts.get("words") else None
    titles = class_lists.titles_of(facts["classes"], words) if dataset.wordnet else ()
    return Source(
        name=name, layout=layout, paths=paths, resolution=side, classes=ClassIndex(tuple(facts["classes"]), titles),
        mirror=dataset.info.mirror, train_counts=tuple(facts["train"]), test_counts=tuple(facts["test"]),
        fingerprint=facts["fingerprint"], preparation=dataset.preparation,
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
    elif dataset.own_root:
        raise UserError(f"{name}: no dataset.root given: it must name a folder that holds {dataset.expected}")
    else:
        folders = [data_root / name, *(data_root / other for other in dataset.other_names), *dataset.system_folders]
    for folder in folders:
        for finder in dataset.finders:
            if found := finder(folder):
                return found
    remedy = f", or run: edc datasets --fetch {name}" if dataset.downloads else f"; {dataset.info.where}"
    raise UserError(f"{name} not found: {shown(folders[0])} must hold {dataset.expected}{remedy}")


# What is known of a dataset once its files have been read: {"fingerprint": hex, "classes": names, "train": counts, "test": counts}.


def _facts(dataset: Dataset, layout: str, paths: Mapping[str, Path], cache: Path | None) -> dict:
    """Return the facts of a dataset, from the memo where no file changed its size or time since.

    A fingerprint covers class, name and content of every file. Above FILES_READ_WHOLE files it covers name and size of each and the
    content of the first one of every class, and the files count as unchanged for as long as their folders or archives are.
    """
    expected = (dataset.classes() or None) if dataset.classes else None
    memo = _Memo(cache)
    if layout not in LISTINGS:
        key = _hash(layout, _stamps(paths.items()))
        return memo.get(key) or memo.put(key, _array_facts(layout, paths, list(expected or ())))
    mark = layout.partition("-")[0]  # a tree and its archive are the same images
    packed = all(path.is_file() for path in paths.values())
    key = _hash(layout, [*_stamps(paths.items()), (dataset.info.name,)])
    if packed and (facts := memo.get(key)):
        return facts
    listed = listing(layout, paths, expected, part=dataset.part)
    if not packed:
        key = _hash(layout, _stamps((str(folder), folder) for folder in listed.folders))
    if facts := memo.get(key):  # of a tree only where it is a large one
        return facts
    scanned = _scan(listed, layout)
    facts = {"classes": list(listed.classes), "words": str(listed.words) if listed.words else None, **scanned.counts}
    if scanned.files > FILES_READ_WHOLE:
        return memo.put(key, facts | {"fingerprint": _hash(mark, [*_first_of_each(listed), (scanned.names_and_sizes,)])})
    if not packed:
        key = scanned.stamps
    rows = ((part, _digest(image)) for part, image in _parts(listed))
    return memo.get(key) or memo.put(key, facts | {"fingerprint": _hash(mark, rows)})


@dataclass(frozen=True)
class _Scanned:
    """What one look at all files tells without reading them."""

    counts: dict[str, list[int]]
    files: int
    stamps: str  # digest over path, size and time of every file
    names_and_sizes: str


def _scan(listed: Listing, layout: str) -> _Scanned:
    counts = {split: dict.fromkeys(listed.classes, 0) for split in ("train", "test")}
    stamps, sizes = hashlib.sha256(layout.encode()), hashlib.sha256()
    for split, name in _in_order(listed):
        for image in listed.files(split, name):
            size, time = _size_and_time(image)
            counts[split][name] += 1
            stamps.update(json.dumps((image, size, time)).encode())
            sizes.update(json.dumps((f"{split}/{name}/{archives.file_name(image)}", size)).encode())
    by_split = {split: list(numbers.values()) for split, numbers in counts.items()}
    check_not_empty(by_split, listed.classes, listed.places)
    return _Scanned(by_split, sum(map(sum, by_split.values())), stamps.hexdigest(), sizes.hexdigest())


def _size_and_time(image: str) -> tuple[int, int]:
    if archives.SEPARATOR in image:
        return archives.encoded_size(image), 0
    stat = os.stat(image)  # noqa: PTH116 - strings, for a million of them
    return stat.st_size, stat.st_mtime_ns


def _in_order(listed: Listing) -> list[tuple[str, str]]:
    """Return every (split, class) in the order of the names of their files."""
    return [(split, name) for split in ("test", "train") for name in sorted(listed.classes, key=lambda name: f"{name}/")]


def _parts(listed: Listing) -> Iterable[tuple[str, str]]:
    """Yield the place in the tree and the reference of every image, in the order of their places."""
    for split, name in _in_order(listed):
        for image in listed.files(split, name):
            yield f"{split}/{name}/{archives.file_name(image)}", image


def _first_of_each(listed: Listing) -> Iterable[tuple[str, str]]:
    for split, name in _in_order(listed):
        yield f"{split}/{name}", _digest(listed.files(split, name)[0])


def _digest(image: str) -> str:
    if archives.SEPARATOR in image:
        return hashlib.sha256(archives.read_encoded(image)).hexdigest()
    return digest_file(Path(image))


def _array_facts(layout: str, paths: Mapping[str, Path], classes: list[str]) -> dict:
    """Fingerprint the files of a layout that holds arrays, and count images by class, which means to read them."""
    from engine.data.layouts import read_layout  # brings numpy, which a mere list of datasets does not need

    fingerprint = _hash(layout, ((part, digest_file(path)) for part, path in sorted(paths.items())))
    counts = {}
    for split, raw in zip(("train", "test"), read_layout(layout, paths, classes), strict=True):
        labels = raw.labels.tolist()
        counts[split] = [labels.count(label) for label in range(len(classes))]
        empty = [name for name, count in zip(classes, counts[split], strict=True) if not count]
        if empty:
            raise UserError(f"{shown(next(iter(paths.values())).parent)}: no {split} image of class {empty[0]!r}: every class needs one")
    return {"fingerprint": fingerprint, "classes": classes, **counts}


def _stamps(files: Iterable[tuple[str, Path]]) -> Iterable[tuple]:
    """Yield part, path, size and time of files or folders."""
    for part, path in files:
        stat = path.stat()
        yield part, str(path), stat.st_size, stat.st_mtime_ns


def _hash(layout: str, rows: Iterable[Sequence]) -> str:
    total = hashlib.sha256(layout.encode())
    for row in rows:
        total.update(json.dumps(row).encode())
    return total.hexdigest()


class _Memo:
    """The facts of datasets that have been read before, by a key that changes with their files."""

    def __init__(self, cache: Path | None) -> None:
        self.path = cache / "fingerprints.json" if cache else None
        self.entries = self._read()

    def _read(self) -> dict[str, dict]:
        try:
            memo = read_json(self.path) if self.path else {}
        except (OSError, ValueError):
            return {}
        wanted = {"fingerprint", "train", "test", "classes"}
        items = memo.items() if isinstance(memo, dict) else ()
        return {key: facts for key, facts in items if isinstance(facts, dict) and wanted <= set(facts)}

    def get(self, key: str) -> dict | None:
        """Return what is known under a key."""
        return self.entries.get(key)

    def put(self, key: str, facts: dict) -> dict:
        """Remember facts and return them; a memo only saves time, so one that cannot be written does not matter."""
        if self.path:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, dict(list(self.entries.items())[1 - MEMO_ENTRIES :]) | {key: facts})
            except (OSError, RunError):
                return facts
        return facts


def fetch(name: str, data_root: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Download a dataset's files to `<data_root>/<name>` and return that folder; `progress` is told bytes done and bytes in all.

    Raises UserError when there is nothing to fetch, the server cannot be reached or sends something else; RunError when the disk refuses.
    """
    from engine.data.download import download  # brings the HTTP client, which a list of datasets does not need

    dataset = _dataset(name)
    if not dataset.downloads:
        files = f"; then {shown(data_root / name)} must hold {dataset.expected}" if dataset.wordnet else ""
        raise UserError(f"{name} is not fetched: {dataset.info.where}{files}")
    folder, total, before = data_root / name, sum(file.size for file in dataset.downloads), 0
    for file in dataset.downloads:
        report = (lambda done, before=before: progress(before + done, total)) if progress else None
        download(file.url, file.md5, folder / file.file_name, report)
        before += file.size
    return folder

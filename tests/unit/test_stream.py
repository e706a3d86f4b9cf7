"""Streamed images: the same bytes as decoded ones, whichever way is chosen and however many threads decode."""

import shutil

import numpy as np
import pytest
from small_datasets import picture, write_cifar10, write_tiny_imagenet, write_tree, zip_folder

from engine.data import decode
from engine.data.decode import prepare
from engine.data.sources import locate
from engine.data.store import open_store
from engine.data.stream import StreamedImages, _decoders
from engine.errors import RunError, UserError

KINDS = ("memory-map", "stream")


def stores(root, cache, name="folder", resolution=None):
    source = locate(name, root, root, resolution)
    return [open_store(prepare(source, cache, store=kind)) for kind in KINDS]


@pytest.fixture
def tree(tmp_path):
    """Write images of several sizes in two classes."""
    for split, count in (("train", 5), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                picture((label, number, count), (30 + 7 * number, 41)).save(tmp_path / "data" / split / name / f"{number}.jpg")
    return tmp_path / "data"


class TestTheSame:
    @pytest.mark.parametrize("resolution", [16, 32])
    def test_a_stream_gives_the_bytes_of_a_mapped_store(self, tree, tmp_path, resolution):
        mapped, streamed = stores(tree, tmp_path / "cache", resolution=resolution)
        assert isinstance(streamed.train.images, StreamedImages) and isinstance(mapped.train.images, np.memmap)
        for split in ("train", "test"):
            one, other = getattr(mapped, split), getattr(streamed, split)
            assert (other.images.shape, len(other), other.images.dtype) == (one.images.shape, len(one), one.images.dtype)
            assert np.array_equal(other.images[:], one.images) and np.array_equal(other.labels, one.labels)
            rows = np.array([4, 0, 0, 3])
            assert np.array_equal(other.images[rows], one.images[rows])
            assert np.array_equal(other.images[1:1], one.images[1:1])
        assert (mapped.mean, mapped.std, mapped.classes, mapped.fingerprint) == (
            streamed.mean, streamed.std, streamed.classes, streamed.fingerprint,
        )

    def test_a_zip_file_is_streamed_as_well(self, tmp_path):
        zip_folder(write_tiny_imagenet(tmp_path / "data"), tmp_path / "data" / "tiny-imagenet-200.zip")
        mapped, streamed = stores(tmp_path / "data", tmp_path / "cache", "tiny-imagenet")
        assert np.array_equal(streamed.train.images[:], mapped.train.images) and streamed.classes.titles[0] == "goldfish"

    @pytest.mark.parametrize("threads", [1, 3])
    def test_how_many_threads_decode_does_not_matter(self, tree, tmp_path, monkeypatch, threads):
        mapped, streamed = stores(tree, tmp_path / "cache")
        monkeypatch.setattr("engine.data.stream.processor_count", lambda: threads)
        _decoders.cache_clear()
        assert np.array_equal(streamed.train.images[:], mapped.train.images)
        assert _decoders()._max_workers == threads
        _decoders().shutdown()
        _decoders.cache_clear()


class TestTheChoice:
    def test_small_data_are_mapped_and_large_ones_streamed(self, tree, tmp_path, monkeypatch):
        source = locate("folder", tree, tree, None)
        assert source.decoded_bytes == 16 * 3 * 32 * 32
        assert isinstance(open_store(prepare(source, tmp_path / "small")).train.images, np.memmap)
        monkeypatch.setattr(decode, "MAPPED_BYTES", source.decoded_bytes - 1)
        assert isinstance(open_store(prepare(source, tmp_path / "large")).train.images, StreamedImages)
        assert isinstance(open_store(prepare(source, tmp_path / "small")).train.images, np.memmap)  # it is there already

    def test_a_full_disk_is_streamed_from_unless_decoding_was_asked_for(self, tree, tmp_path, monkeypatch):
        source = locate("folder", tree, tree, None)
        monkeypatch.setattr(decode, "_free_bytes", lambda cache: source.decoded_bytes - 1)
        assert isinstance(open_store(prepare(source, tmp_path / "cache")).train.images, StreamedImages)
        with pytest.raises(UserError, match='the decoded images take 0.0 GB.*set dataset.store = "stream"'):
            prepare(source, tmp_path / "cache", store="memory-map")

    def test_what_is_no_image_file_is_always_mapped(self, tmp_path):
        write_cifar10(tmp_path / "data")
        _, streamed = stores(tmp_path / "data", tmp_path / "cache", "cifar10")
        assert isinstance(streamed.train.images, np.memmap)

    def test_a_stream_takes_no_room_for_images(self, tree, tmp_path):
        folder = prepare(locate("folder", tree, tree, 128), tmp_path / "cache", store="stream")
        assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000 < 16 * 3 * 128 * 128

    def test_data_that_were_moved_are_found_at_their_new_place(self, tree, tmp_path):
        prepare(locate("folder", tree, tree, None), tmp_path / "cache", store="stream")
        moved = tmp_path / "moved"
        shutil.move(tree, moved)
        store = open_store(prepare(locate("folder", moved, moved, None), tmp_path / "cache", store="stream"))
        assert store.train.images[:2].shape == (2, 3, 32, 32)


class TestTroubles:
    def test_an_image_that_cannot_be_decoded_is_named_when_it_is_wanted(self, tree, tmp_path):
        _, streamed = stores(tree, tmp_path / "cache")
        (tree / "train" / "dog" / "1.jpg").write_text("no image")
        assert streamed.train.images[:6].shape[0] == 6
        with pytest.raises(UserError, match=r"train/dog/1\.jpg cannot be decoded: not an image"):
            streamed.train.images[:]

    def test_an_archive_that_has_changed_is_said(self, tmp_path):
        archive = tmp_path / "data" / "tiny-imagenet-200.zip"
        zip_folder(write_tiny_imagenet(tmp_path / "data"), archive)
        _, streamed = stores(tmp_path / "data", tmp_path / "cache", "tiny-imagenet")
        archive.write_bytes(b"\0" * archive.stat().st_size)
        with pytest.raises(UserError, match="the archive has changed"):
            streamed.train.images[:1]

    def test_a_damaged_list_of_files_says_what_to_do(self, tree, tmp_path):
        folder = prepare(locate("folder", tree, tree, None), tmp_path / "cache", store="stream")
        np.save(folder / "train.files.npy", np.zeros(3, dtype=np.uint8))
        with pytest.raises(RunError, match="remove the folder"):
            open_store(folder)

    def test_pixels_are_counted_by_several_processes_as_by_one(self, tmp_path, monkeypatch):
        write_tree(tmp_path / "data", train=30)
        one = prepare(locate("folder", tmp_path / "data", tmp_path, None), tmp_path / "one", store="stream")
        monkeypatch.setattr(decode, "FILES_FOR_SEVERAL_PROCESSES", 10)
        monkeypatch.setattr(decode, "processor_count", lambda: 2)
        seen = []
        progress = lambda done, total: seen.append((done, total))
        several = prepare(locate("folder", tmp_path / "data", tmp_path, None), tmp_path / "several", progress, "stream")
        assert (one / "meta.json").read_text() == (several / "meta.json").read_text() and seen[-1] == (60, 60)

"""Decoding: every kind of image, exact statistics, and a cache that is whole or not there."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_datasets import CIFAR10, pack_cifar10, write_cifar10, write_fashion_mnist, write_tree

from engine.data import decode
from engine.data.decode import channel_mean_and_deviation, decode_image, fit_array, prepare
from engine.data.sources import locate
from engine.data.store import open_store
from engine.errors import RunError, UserError


def prepared(name, root, cache, resolution=None, progress=None):
    return prepare(locate(name, root, root, resolution), cache, progress)


def entries(cache):
    return sorted(path.name for path in (cache / "data").iterdir()) if cache.exists() else []


def saved(path, image, **options):
    image.save(path, **options)
    return decode_image(str(path), 16)


class TestKindsOfImages:
    COLOUR = (10, 200, 60)

    def constant(self, decoded, colour):
        assert decoded.shape == (3, 16, 16) and decoded.dtype == np.uint8
        assert [np.unique(channel).tolist() for channel in decoded] == [[value] for value in colour]

    @pytest.mark.parametrize("extension", ["png", "bmp", "ppm", "tiff", "tga", "gif"])
    def test_lossless_colour_is_kept(self, tmp_path, extension):
        self.constant(saved(tmp_path / f"a.{extension}", Image.new("RGB", (16, 16), self.COLOUR)), self.COLOUR)

    def test_jpeg_and_webp_are_read(self, tmp_path):
        for extension in ("jpg", "webp"):
            decoded = saved(tmp_path / f"a.{extension}", Image.new("RGB", (16, 16), self.COLOUR))
            assert np.abs(decoded.mean((1, 2)) - self.COLOUR).max() < 4

    def test_grey_becomes_three_equal_channels(self, tmp_path):
        self.constant(saved(tmp_path / "a.png", Image.new("L", (16, 16), 77)), (77, 77, 77))
        self.constant(saved(tmp_path / "b.png", Image.new("1", (16, 16), 1)), (255, 255, 255))

    def test_palettes_are_resolved(self, tmp_path):
        self.constant(saved(tmp_path / "a.png", Image.new("RGB", (16, 16), self.COLOUR).quantize(8)), self.COLOUR)

    def test_cmyk_is_converted(self, tmp_path):
        self.constant(saved(tmp_path / "a.tiff", Image.new("CMYK", (16, 16), (255, 0, 0, 0))), (0, 255, 255))

    @pytest.mark.parametrize("extension", ["png", "tiff", "pgm"])
    def test_16_bit_grey_keeps_its_upper_byte(self, tmp_path, extension):
        image = Image.fromarray(np.full((16, 16), 0xABCD, dtype=np.uint16))
        self.constant(saved(tmp_path / f"a.{extension}", image), (0xAB, 0xAB, 0xAB))

    def test_transparency_is_laid_on_white(self, tmp_path):
        self.constant(saved(tmp_path / "a.png", Image.new("RGBA", (16, 16), (0, 0, 0, 0))), (255, 255, 255))
        self.constant(saved(tmp_path / "b.png", Image.new("LA", (16, 16), (0, 51))), (204, 204, 204))
        self.constant(saved(tmp_path / "c.png", Image.new("P", (16, 16), 0), transparency=0), (255, 255, 255))

    def test_of_an_animation_the_first_picture_counts(self, tmp_path):
        frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
        self.constant(saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:]), (255, 0, 0))

    def test_exif_orientation_is_ignored(self, tmp_path):
        image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
        exif = image.getexif()
        exif[0x0112] = 6
        assert np.array_equal(saved(tmp_path / "a.png", image, exif=exif)[0], np.asarray(image))

    def test_floating_point_pixels_are_refused(self, tmp_path):
        with pytest.raises(UserError, match="a.tiff.*8 or 16 bits"):
            saved(tmp_path / "a.tiff", Image.new("F", (16, 16), 0.5))


class TestSize:
    def test_28_pixels_get_a_black_border_of_2(self):
        images = np.random.default_rng(0).integers(1, 256, (4, 28, 28)).astype(np.uint8)
        fitted = fit_array(images, 32)
        assert fitted.shape == (4, 3, 32, 32)
        assert all(np.array_equal(fitted[:, channel, 2:30, 2:30], images) for channel in range(3))
        assert np.count_nonzero(fitted) == 3 * images.size
        assert np.array_equal(fit_array(images, 28)[:, 1], images)

    def test_8_pixels_are_enlarged_bilinearly(self):
        ramp = np.tile(np.arange(8, dtype=np.uint8) * 20, (1, 8, 1))
        # Between centres an output pixel is 3/4 of the nearer and 1/4 of the farther; the outermost repeats the border.
        row = [0, 5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 105, 115, 125, 135, 140]
        assert fit_array(ramp, 16)[0, 2, 5].tolist() == row


class TestStatistics:
    def test_mean_and_deviation_are_those_of_all_training_pixels(self, tmp_path):
        images, _ = write_cifar10(tmp_path / "data")
        store = open_store(prepared("cifar10", tmp_path / "data", tmp_path / "cache"))
        pixels = images.astype(np.float64) / 255
        assert np.allclose(store.mean, pixels.mean((0, 2, 3)), rtol=0, atol=1e-14)
        assert np.allclose(store.std, pixels.std((0, 2, 3)), rtol=0, atol=1e-14)

    def test_there_is_no_rounding_with_very_many_pixels(self):
        histogram = np.zeros((3, 256), dtype=np.int64)
        histogram[:, [100, 101]] = 10**14
        mean, deviation = channel_mean_and_deviation(histogram)
        assert mean[0] == 100.5 / 255 and deviation[0] == 0.5 / 255


class TestPrepared:
    def test_images_are_ordered_by_class_and_file_name(self, tmp_path):
        write_tree(tmp_path / "data", classes=("b", "a"), train=11)
        store = open_store(prepared("folder", tmp_path / "data", tmp_path / "cache"))
        assert store.classes.names == ("a", "b") and store.train.labels.tolist() == [0] * 11 + [1] * 11
        numbers = store.train.images[:, 1, 0, 0].tolist()
        assert numbers == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9] * 2  # by name: 10.png comes before 2.png
        assert store.train.images[:, 0, 0, 0].tolist() == [1] * 11 + [0] * 11
        assert store.test.images.shape == (4, 3, 32, 32) and isinstance(store.train.images, np.memmap)

    @pytest.mark.parametrize("pack", [False, True])
    def test_cifar_batches_keep_their_order_within_a_class(self, tmp_path, pack):
        images, labels = write_cifar10(tmp_path / "data", per_batch=20)
        if pack:
            pack_cifar10(tmp_path / "data")
        store = open_store(prepared("cifar10", tmp_path / "data", tmp_path / "cache"))
        for label in range(10):
            assert np.array_equal(store.train.images[store.train.rows_of_class(label)], images[labels == label])

    def test_fashion_mnist_is_padded_to_32(self, tmp_path):
        images, labels = write_fashion_mnist(tmp_path / "data")
        store = open_store(prepared("fashion-mnist", tmp_path / "data", tmp_path / "cache"))
        assert np.array_equal(store.train.images[:, 0, 2:-2, 2:-2], images[np.argsort(labels, kind="stable")])

    @pytest.mark.parametrize("resolution", [8, 24])
    def test_another_resolution_is_another_folder(self, tmp_path, resolution):
        write_cifar10(tmp_path / "data")
        usual = prepared("cifar10", tmp_path / "data", tmp_path / "cache")
        other = prepared("cifar10", tmp_path / "data", tmp_path / "cache", resolution)
        assert usual != other
        store = open_store(other)
        assert store.resolution == resolution and store.train.images.shape == (50, 3, resolution, resolution)

    def test_the_second_time_nothing_is_decoded(self, tmp_path, monkeypatch):
        write_tree(tmp_path / "data")
        first = prepared("folder", tmp_path / "data", tmp_path / "cache")
        monkeypatch.setattr(decode, "read_layout", None)
        assert prepared("folder", tmp_path / "data", tmp_path / "cache") == first

    def test_progress_rises_to_the_number_of_images(self, tmp_path):
        write_tree(tmp_path / "data")
        seen = []
        prepared("folder", tmp_path / "data", tmp_path / "cache", None, lambda done, total: seen.append((done, total)))
        assert seen == [(6, 10), (10, 10)]

    def test_the_dataset_folder_is_left_alone(self, tmp_path):
        write_tree(tmp_path / "data")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
        prepared("folder", tmp_path / "data", tmp_path / "cache")
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")} == before

    def test_several_processes_give_the_same_bytes_as_one(self, tmp_path, monkeypatch):
        write_tree(tmp_path / "data", train=300, test=4)
        one = prepared("folder", tmp_path / "data", tmp_path / "one")
        monkeypatch.setattr(decode, "FILES_FOR_SEVERAL_PROCESSES", 100)
        monkeypatch.setattr(decode, "processor_count", lambda: 3)
        seen = []
        several = prepared("folder", tmp_path / "data", tmp_path / "several", None, lambda done, total: seen.append(done))
        assert {path.name: path.read_bytes() for path in one.iterdir()} == {path.name: path.read_bytes() for path in several.iterdir()}
        assert seen == sorted(seen) and seen[-1] == 608 and len(seen) == 4


def bomb(path):
    """Write a PNG whose header tells of 60,000 by 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an image"),
    "bomb": bomb,
}


class TestDamage:
    @pytest.mark.parametrize("processes", [1, 2])
    @pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
    def test_a_file_that_cannot_be_decoded_is_named_and_nothing_is_left(self, tmp_path, monkeypatch, damage, processes):
        monkeypatch.setattr(decode, "FILES_FOR_SEVERAL_PROCESSES", 1 if processes > 1 else 1000)
        monkeypatch.setattr(decode, "processor_count", lambda: processes)
        write_tree(tmp_path / "data")
        path = tmp_path / "data" / "train" / "dog" / "2.png"
        damage(path)
        with pytest.raises(UserError) as caught:
            prepared("folder", tmp_path / "data", tmp_path / "cache")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert entries(tmp_path / "cache") == []

    def test_a_truncated_jpeg_is_an_error_too(self, tmp_path):
        write_tree(tmp_path / "data")
        path = tmp_path / "data" / "test" / "cat" / "x.jpg"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(UserError, match="x.jpg"):
            prepared("folder", tmp_path / "data", tmp_path / "cache")

    def test_a_helper_that_dies_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decode, "FILES_FOR_SEVERAL_PROCESSES", 1)
        monkeypatch.setattr(decode, "processor_count", lambda: 2)
        monkeypatch.setattr(decode.sys, "executable", "/bin/false")
        write_tree(tmp_path / "data")
        with pytest.raises(RunError, match="exit status 1"):
            prepared("folder", tmp_path / "data", tmp_path / "cache")
        assert entries(tmp_path / "cache") == []

    def test_a_cache_that_cannot_be_written_is_named(self, tmp_path):
        write_tree(tmp_path / "data")
        (tmp_path / "cache").write_text("a file where the folder should be")
        with pytest.raises(RunError, match="cache"):
            prepared("folder", tmp_path / "data", tmp_path / "cache")

    def test_an_interruption_leaves_nothing(self, tmp_path):
        write_tree(tmp_path / "data")

        def interrupt(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepared("folder", tmp_path / "data", tmp_path / "cache", None, interrupt)
        assert entries(tmp_path / "cache") == []


class TestTwoAtOnce:
    def test_one_that_comes_second_takes_what_the_first_put_there(self, tmp_path):
        write_tree(tmp_path / "data")
        cache, first = tmp_path / "cache", []

        def overtake(done, total):
            if not first:
                first.append(None)
                first.append(prepared("folder", tmp_path / "data", cache))

        second = prepared("folder", tmp_path / "data", cache, None, overtake)
        assert second == first[1] and entries(cache) == [second.name]
        assert len(open_store(second).train) == 6

    def test_two_processes_end_with_one_folder(self, tmp_path):
        write_tree(tmp_path / "data", classes=CIFAR10)
        code = (
            "import sys; from pathlib import Path; from engine.data.decode import prepare; from engine.data.sources import locate;"
            "root, cache = map(Path, sys.argv[1:]); print(prepare(locate('folder', root, root, None, cache), cache))"
        )
        command = [sys.executable, "-c", code, tmp_path / "data", tmp_path / "cache"]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        folders = {process.communicate(timeout=60)[0].strip() for process in both}
        assert entries(tmp_path / "cache") == [Path(folder).name for folder in folders]

    def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(self, tmp_path):
        write_tree(tmp_path / "data")
        cache = tmp_path / "cache"
        key = prepared("folder", tmp_path / "data", tmp_path / "other").name
        for name in ("dead", "alive"):
            (cache / "data" / f"{key}.{name}.tmp").mkdir(parents=True)
            (cache / "data" / f"{key}.{name}.tmp" / "lock").touch()
            os.utime(cache / "data" / f"{key}.{name}.tmp", (1, 1))
        with (cache / "data" / f"{key}.alive.tmp" / "lock").open("w") as lock:
            decode.fcntl.flock(lock, decode.fcntl.LOCK_EX)
            prepared("folder", tmp_path / "data", cache)
        assert entries(cache) == [key, f"{key}.alive.tmp"]


class TestOpening:
    def test_a_damaged_folder_says_what_to_do(self, tmp_path):
        write_tree(tmp_path / "data")
        folder = prepared("folder", tmp_path / "data", tmp_path / "cache")
        images = folder / "train.images.npy"
        images.write_bytes(images.read_bytes()[:500])
        with pytest.raises(RunError, match="remove the folder"):
            open_store(folder)

    def test_the_meta_file_has_the_counts(self, tmp_path):
        write_tree(tmp_path / "data")
        meta = json.loads((prepared("folder", tmp_path / "data", tmp_path / "cache") / "meta.json").read_text())
        assert (meta["train_counts"], meta["test_counts"], meta["classes"]) == ([3, 3], [2, 2], ["cat", "dog"])

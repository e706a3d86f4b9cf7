"""Finding datasets on disk: every layout, what is said when something is missing, and the fingerprint."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_datasets import CIFAR10, RESOLUTIONS, pack_cifar10, write_cifar10, write_fashion_mnist, write_idx, write_tree

from engine.data import layouts, sources
from engine.data.sources import ClassIndex, list_datasets, locate
from engine.errors import UserError


def message_of(function, *arguments, **keywords):
    """Return the one line with which a call refuses."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestTrees:
    def test_classes_are_sorted_by_name_whatever_the_order_on_disk(self, tmp_path):
        write_tree(tmp_path, classes=("zebra", "ant", "Moth"))
        source = locate("folder", tmp_path, tmp_path, None)
        assert source.classes.names == ("Moth", "ant", "zebra")
        assert (source.train_counts, source.test_counts) == ((3, 3, 3), (2, 2, 2))
        assert (source.layout, source.resolution, source.mirror) == ("tree", 32, True)

    def test_val_serves_as_test(self, tmp_path):
        write_tree(tmp_path, test_name="val")
        assert locate("folder", tmp_path, tmp_path, 16).paths["test"] == tmp_path / "val"

    def test_hidden_files_and_files_that_are_no_images_do_not_count(self, tmp_path):
        write_tree(tmp_path)
        before = locate("folder", tmp_path, tmp_path, None)
        (tmp_path / "train" / "cat" / "readme.txt").write_text("x")
        (tmp_path / "train" / "cat" / "._0.png").write_text("x")
        (tmp_path / "train" / ".thumbnails").mkdir()
        (tmp_path / "train" / "list.csv").write_text("x")
        assert locate("folder", tmp_path, tmp_path, None) == before

    def test_an_image_extension_counts_in_any_case(self, tmp_path):
        write_tree(tmp_path)
        (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "train" / "cat" / "0.PNG")
        assert locate("folder", tmp_path, tmp_path, None).train_counts == (3, 3)

    def test_an_empty_class_is_named(self, tmp_path):
        write_tree(tmp_path)
        (tmp_path / "test" / "owl\n").mkdir()
        (tmp_path / "train" / "owl\n").mkdir()
        (tmp_path / "test" / "owl\n" / "0.png").write_bytes(b"x")
        text = message_of(locate, "folder", tmp_path, tmp_path, None)
        assert r"'owl\n'" in text and str(tmp_path / "train") in text

    def test_classes_that_differ_between_train_and_test_are_named(self, tmp_path):
        write_tree(tmp_path, classes=("cat", "dog"))
        (tmp_path / "test" / "dog").rename(tmp_path / "test" / "cow")
        text = message_of(locate, "folder", tmp_path, tmp_path, None)
        assert "missing: 'dog'" in text and "not expected: 'cow'" in text

    @pytest.mark.parametrize("present", [(), ("train",), ("test",)])
    def test_a_missing_split_is_said(self, tmp_path, present):
        for name in present:
            (tmp_path / name / "cat").mkdir(parents=True)
        assert "test/" in message_of(locate, "folder", tmp_path, tmp_path, None)

    def test_images_straight_in_train_are_refused(self, tmp_path):
        (tmp_path / "train").mkdir()
        (tmp_path / "test").mkdir()
        assert "no class folders" in message_of(locate, "folder", tmp_path, tmp_path, None)

    def test_a_folder_needs_a_root_that_exists(self, tmp_path):
        assert "dataset.root" in message_of(locate, "folder", None, tmp_path, None)
        assert str(tmp_path / "nowhere") in message_of(locate, "folder", tmp_path / "nowhere", tmp_path, None)


class TestCifar10:
    def test_the_three_layouts_are_found_under_the_data_root(self, tmp_path):
        write_cifar10(tmp_path / "a" / "cifar10")
        write_cifar10(tmp_path / "b" / "cifar10")
        pack_cifar10(tmp_path / "b" / "cifar10")
        write_tree(tmp_path / "c" / "cifar10", classes=CIFAR10[::-1])
        found = [locate("cifar10", None, tmp_path / place, None) for place in "abc"]
        assert [source.layout for source in found] == ["cifar-batches", "cifar-archive", "tree"]
        assert {source.classes.names for source in found} == {tuple(CIFAR10)}
        assert [source.train_counts for source in found] == [(5,) * 10, (5,) * 10, (3,) * 10]

    def test_torchvisions_own_folder_is_found(self, tmp_path):
        write_cifar10(tmp_path)
        assert locate("cifar10", None, tmp_path, None).layout == "cifar-batches"
        assert locate("cifar10", tmp_path / "cifar-10-batches-py", Path("nowhere"), None).layout == "cifar-batches"

    def test_other_class_folders_are_an_error_that_names_them(self, tmp_path):
        write_tree(tmp_path, classes=[*CIFAR10[:-1], "lorry"])
        text = message_of(locate, "cifar10", tmp_path, tmp_path, None)
        assert "missing: 'truck'" in text and "not expected: 'lorry'" in text

    def test_a_missing_batch_is_named(self, tmp_path):
        write_cifar10(tmp_path)
        (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
        assert "data_batch_3" in message_of(locate, "cifar10", tmp_path, tmp_path, None)

    def test_when_missing_it_says_which_files_go_where_and_how_to_fetch(self, tmp_path):
        text = message_of(locate, "cifar10", None, tmp_path, None)
        assert str(tmp_path / "cifar10") in text and "cifar-10-python.tar.gz" in text and "edc datasets --fetch cifar10" in text
        assert list(tmp_path.iterdir()) == []


class TestFashionMnist:
    @pytest.mark.parametrize(("place", "suffix"), [("fashion-mnist", ".gz"), ("fashion-mnist", ""), ("FashionMNIST/raw", ".gz")])
    def test_it_is_found_plain_or_packed_and_in_torchvisions_place(self, tmp_path, place, suffix):
        write_fashion_mnist(tmp_path / place, suffix=suffix)
        source = locate("fashion-mnist", None, tmp_path, None)
        assert (source.layout, source.resolution, source.train_counts) == ("idx", 32, (2,) * 10)
        assert source.classes.names[9] == "Ankle boot"

    def test_a_missing_file_is_named(self, tmp_path):
        write_fashion_mnist(tmp_path)
        (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
        assert "t10k-labels-idx1-ubyte" in message_of(locate, "fashion-mnist", tmp_path, tmp_path, None)

    def test_a_class_without_images_is_named(self, tmp_path):
        images, _ = write_fashion_mnist(tmp_path)
        write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(len(images)))
        assert "'Trouser'" in message_of(locate, "fashion-mnist", tmp_path, tmp_path, None)


class TestDigits:
    def test_they_come_with_scikit_learn_in_a_fixed_split_of_two_thirds(self, tmp_path):
        source = locate("digits", None, tmp_path, None)
        assert (sum(source.train_counts), sum(source.test_counts)) == (1198, 599)
        assert all(abs(train - 2 * test) <= 2 for train, test in zip(source.train_counts, source.test_counts, strict=True))
        assert (source.resolution, source.mirror, source.classes.names) == (16, False, tuple("0123456789"))

    def test_the_split_of_the_first_rows_never_changes(self):
        source = locate("digits", None, Path("nowhere"), None)
        train, test = layouts.read_layout(source.layout, source.paths, source.classes.names)
        assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2]
        assert test.labels[:12].tolist() == [9, 5, 8, 1, 2, 3, 7, 8, 9, 0, 9, 8]


class TestFingerprint:
    def test_it_follows_the_content_and_the_place_in_the_tree(self, tmp_path):
        for name in "ab":
            write_tree(tmp_path / name)
        first, second = (locate("folder", tmp_path / name, tmp_path, None).fingerprint for name in "ab")
        assert first == second
        (tmp_path / "b" / "train" / "cat" / "0.png").rename(tmp_path / "b" / "train" / "dog" / "9.png")
        assert locate("folder", tmp_path / "b", tmp_path, None).fingerprint != first

    def test_the_second_time_no_file_is_read_unless_one_changed(self, tmp_path, monkeypatch):
        write_tree(tmp_path / "data")
        first = locate("folder", tmp_path / "data", tmp_path, None, tmp_path / "cache")
        read = []
        monkeypatch.setattr(sources, "digest_file", lambda path: read.append(path) or "0")
        assert locate("folder", tmp_path / "data", tmp_path, None, tmp_path / "cache") == first
        assert read == []
        os.utime(tmp_path / "data" / "train" / "cat" / "0.png", ns=(1, 1))
        assert locate("folder", tmp_path / "data", tmp_path, None, tmp_path / "cache") != first
        assert len(read) == 10

    def test_counts_of_packed_datasets_are_remembered_with_it(self, tmp_path, monkeypatch):
        write_fashion_mnist(tmp_path / "data")
        first = locate("fashion-mnist", tmp_path / "data", tmp_path, None, tmp_path / "cache")
        monkeypatch.setattr(sources, "_array_facts", None)
        assert locate("fashion-mnist", tmp_path / "data", tmp_path, None, tmp_path / "cache") == first

    @pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": {}, "b": 1}', '{"a": 1'])
    def test_a_damaged_memo_is_made_anew(self, tmp_path, content):
        write_tree(tmp_path / "data")
        memo = tmp_path / "cache" / "fingerprints.json"
        memo.parent.mkdir()
        memo.write_text(content)
        first = locate("folder", tmp_path / "data", tmp_path, None, memo.parent)
        assert first.fingerprint in memo.read_text()

    def test_a_memo_that_cannot_be_written_does_not_matter(self, tmp_path):
        write_tree(tmp_path / "data")
        (tmp_path / "cache").write_text("a file where the folder should be")
        assert locate("folder", tmp_path / "data", tmp_path, None, tmp_path / "cache").train_counts == (3, 3)


class TestNames:
    def test_an_unknown_dataset_is_answered_with_the_nearest(self, tmp_path):
        assert "'cifar10'" in message_of(locate, "cifar-10", None, tmp_path, None)

    @pytest.mark.parametrize("resolution", [0, -32, 7, 100_000])
    def test_a_senseless_resolution_is_refused(self, tmp_path, resolution):
        assert "8 to 1024" in message_of(locate, "digits", None, tmp_path, resolution)

    def test_the_list_needs_no_disk_and_no_heavy_library(self):
        code = (
            "import sys; from engine.data.sources import list_datasets, locate; from pathlib import Path;"
            "locate('digits', None, Path('nowhere'), None);"
            "print([d.name for d in list_datasets()], sorted({'torch', 'sklearn', 'PIL', 'textual'} & set(sys.modules)))"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        papers = ["cifar10", "cifar100", "tiny-imagenet", "imagenet-10", "imagenet-1k", "imagenet-21k-p"]
        names = ["digits", "fashion-mnist", *papers, "folder"]
        assert output.strip() == f"{names} []"
        assert {info.name: info.resolution for info in list_datasets()} == RESOLUTIONS | {"folder": 32}

    def test_a_class_index_is_told_apart_by_its_order(self):
        assert len(ClassIndex(("a", "b"))) == 2
        assert ClassIndex(("a", "b")).digest != ClassIndex(("b", "a")).digest
        assert ClassIndex(("a", "b")).digest == "3554d2b8a1e34099"

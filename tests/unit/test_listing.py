"""The layouts of CIFAR-100, Tiny-ImageNet and ImageNet as they are published: found, read where they lie, and never unpacked."""

import dataclasses
import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from small_datasets import (
    TINY,
    pack_imagenet,
    pack_tar,
    picture,
    write_cifar100,
    write_imagenet,
    write_tiny_imagenet,
    write_tree,
    zip_folder,
)

from engine.data import class_lists, sources
from engine.data.decode import decode_image, prepare
from engine.data.file_list import FileList
from engine.data.layouts import read_layout
from engine.data.sources import locate
from engine.data.store import open_store
from engine.errors import UserError

# Three of the ten classes of ImageNet-10, in the order of their numbers and in the paper's.
NUMBERS = ("n01749939", "n02107142", "n02869837")
PAPERS = ("n02869837", "n01749939", "n02107142")
OTHERS = ("n01440764", "n15075141")


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        locate(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stored(name, root, cache, resolution=None):
    return open_store(prepare(locate(name, root, root, resolution), cache))


def same(one, other):
    return all(
        np.array_equal(getattr(one, split).images, getattr(other, split).images)
        and np.array_equal(getattr(one, split).labels, getattr(other, split).labels)
        for split in ("train", "test")
    )


@pytest.fixture
def of_three_classes(monkeypatch):
    """Let the ImageNets have three classes."""
    classes = {"imagenet-10": PAPERS, "imagenet-1k": NUMBERS, "imagenet-21k-p": NUMBERS}
    entries = tuple(
        dataclasses.replace(entry, classes=lambda own=classes[entry.info.name]: own) if entry.info.name in classes else entry
        for entry in sources.DATASETS
    )
    monkeypatch.setattr(sources, "DATASETS", entries)


class TestCifar100:
    @pytest.mark.parametrize("pack", [False, True])
    def test_its_fine_labels_are_the_classes(self, tmp_path, pack):
        images, labels = write_cifar100(tmp_path / "cifar100")
        if pack:
            pack_tar(tmp_path / "cifar100" / "cifar-100-python", tmp_path / "cifar100" / "cifar-100-python.tar.gz")
        source = locate("cifar100", None, tmp_path, None)
        assert source.layout == ("cifar100-archive" if pack else "cifar100-batches")
        assert (source.train_counts, source.test_counts, source.resolution) == ((2,) * 100, (2,) * 100, 32)
        assert source.classes.names[:2] == ("apple", "aquarium_fish") and source.classes.names[99] == "worm"
        train, _ = read_layout(source.layout, source.paths, source.classes.names)
        assert np.array_equal(train.images, images) and np.array_equal(train.labels, labels)

    def test_a_tree_of_its_hundred_classes_will_do(self, tmp_path):
        write_tree(tmp_path, classes=class_lists.CIFAR100[::-1], train=1, test=1)
        assert locate("cifar100", tmp_path, tmp_path, None).classes.names == class_lists.CIFAR100

    def test_the_hundred_names_are_in_the_order_of_the_alphabet(self):
        assert list(class_lists.CIFAR100) == sorted(set(class_lists.CIFAR100)) and len(class_lists.CIFAR100) == 100

    def test_the_archive_of_cifar_10_is_not_taken_for_it(self, tmp_path):
        write_cifar100(tmp_path)
        (tmp_path / "cifar-100-python" / "train").unlink()
        assert "lacks train" in refusal("cifar100", tmp_path, tmp_path, None)
        shutil.rmtree(tmp_path / "cifar-100-python")
        pack_tar(write_tree(tmp_path / "other"), tmp_path / "cifar-100-python.tar.gz")
        assert "not the CIFAR-100 archive" in refusal("cifar100", tmp_path, tmp_path, None)


class TestTinyImageNet:
    def test_the_annotations_tell_the_classes_of_the_validation_images(self, tmp_path):
        write_tiny_imagenet(tmp_path / "tiny-imagenet")
        source = locate("tiny-imagenet", None, tmp_path, None)
        assert (source.layout, source.classes.names, source.resolution) == ("tiny-tree", TINY, 64)
        assert (source.train_counts, source.test_counts) == ((4, 4, 4), (2, 2, 2))
        store = stored("tiny-imagenet", tmp_path / "tiny-imagenet", tmp_path / "cache")
        # val_0 and val_3 are of class 0, val_2 and val_5 of class 1, as the annotations say.
        for row, number in enumerate((0, 3, 2, 5, 1, 4)):
            assert np.abs(store.test.images[row].astype(int) - np.asarray(picture((1, number))).transpose(2, 0, 1)).mean() < 8

    def test_classes_are_called_as_its_words_say(self, tmp_path):
        write_tiny_imagenet(tmp_path)
        assert locate("tiny-imagenet", tmp_path, tmp_path, None).classes.titles == ("goldfish", "European fire salamander", "Egyptian cat")

    @pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_the_zip_file_the_tree_and_a_sorted_val_are_the_same_dataset(self, tmp_path, packing):
        write_tiny_imagenet(tmp_path / "tree")
        zip_folder(write_tiny_imagenet(tmp_path / "zip"), tmp_path / "zip" / "tiny-imagenet-200.zip", packing)
        write_tiny_imagenet(tmp_path / "sorted", sort=True)
        places = [locate("tiny-imagenet", tmp_path / name, tmp_path, None) for name in ("tree", "zip", "sorted")]
        assert [place.layout for place in places] == ["tiny-tree", "tiny-zip", "tiny-tree"]
        assert len({place.fingerprint for place in places}) == len({place.classes for place in places}) == 1
        tree, packed, ordered = (stored("tiny-imagenet", tmp_path / name, tmp_path / f"{name}-cache") for name in ("tree", "zip", "sorted"))
        assert same(tree, packed) and same(tree, ordered)
        assert [path.name for path in (tmp_path / "zip").iterdir()] == ["tiny-imagenet-200.zip"]

    def test_a_class_that_is_missing_is_named(self, tmp_path):
        folder = write_tiny_imagenet(tmp_path)
        shutil.rmtree(folder / "train" / TINY[1])
        assert f"missing: '{TINY[1]}'" in refusal("tiny-imagenet", tmp_path, tmp_path, None)

    @pytest.mark.parametrize("text", ["", "val_0.JPEG\n", "../../secret.JPEG\tn01443537\t0\t0\t1\t1\n"])
    def test_damaged_annotations_are_named(self, tmp_path, text):
        folder = write_tiny_imagenet(tmp_path)
        (folder / "val" / "val_annotations.txt").write_text(text)
        assert "val_annotations.txt is damaged" in refusal("tiny-imagenet", tmp_path, tmp_path, None)

    def test_when_missing_it_says_how_to_fetch_it(self, tmp_path):
        assert "edc datasets --fetch tiny-imagenet" in refusal("tiny-imagenet", None, tmp_path, None)


class TestImageNet:
    def test_labels_follow_the_numbers_and_classes_have_titles(self, tmp_path, of_three_classes):
        write_imagenet(tmp_path / "imagenet-1k", NUMBERS[::-1])
        source = locate("imagenet-1k", None, tmp_path, None)
        assert (source.layout, source.classes.names, source.resolution) == ("imagenet-tree", NUMBERS, 224)
        assert source.classes.titles == ("green mamba", "Doberman", "bonnet")

    def test_the_original_archives_are_the_same_dataset_as_the_tree(self, tmp_path, of_three_classes):
        for name in ("tree", "tars"):
            write_imagenet(tmp_path / name, NUMBERS)
        pack_imagenet(tmp_path / "tars", NUMBERS)
        tree, tars = (locate("imagenet-1k", tmp_path / name, tmp_path, 32) for name in ("tree", "tars"))
        assert (tars.layout, tars.fingerprint, tars.classes) == ("imagenet-tars", tree.fingerprint, tree.classes)
        assert same(*(stored("imagenet-1k", tmp_path / name, tmp_path / f"{name}-cache", 32) for name in ("tree", "tars")))
        assert sorted(path.suffix for path in (tmp_path / "tars").iterdir()) == [".gz", ".tar", ".tar"]

    def test_images_are_normalised_as_published_weights_expect(self, tmp_path, of_three_classes):
        write_imagenet(tmp_path, NUMBERS)
        store = stored("imagenet-1k", tmp_path, tmp_path / "cache", 32)
        assert (store.mean, store.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def test_test_images_lose_their_border_and_training_images_do_not(self, tmp_path, of_three_classes):
        write_imagenet(tmp_path, NUMBERS)
        store = stored("imagenet-1k", tmp_path, tmp_path / "cache", 56)
        image = Image.open(tmp_path / "val" / NUMBERS[0] / "ILSVRC2012_val_00000001.JPEG").convert("RGB")  # 60 x 50
        enlarged = image.resize((int(64 * 60 / 50), 64), Image.Resampling.BILINEAR)  # 56 * 256 / 224 = 64
        assert np.array_equal(store.test.images[0], np.asarray(enlarged.crop((10, 4, 66, 60))).transpose(2, 0, 1))
        first = tmp_path / "train" / NUMBERS[0] / f"{NUMBERS[0]}_0.JPEG"
        assert np.array_equal(store.train.images[0], decode_image(str(first), 56))

    def test_ten_classes_in_the_papers_order_are_cut_from_a_larger_tree_or_are_all_there_is(self, tmp_path, of_three_classes):
        write_imagenet(tmp_path / "all" / "imagenet-1k", (*NUMBERS, *OTHERS))
        write_imagenet(tmp_path / "three", NUMBERS)
        whole = locate("imagenet-10", None, tmp_path / "all", 32)
        three = locate("imagenet-10", tmp_path / "three", tmp_path, 32)
        assert whole.classes.names == three.classes.names == PAPERS
        assert (whole.fingerprint, whole.train_counts) == (three.fingerprint, (3, 3, 3))
        store = stored("imagenet-10", tmp_path / "all" / "imagenet-1k", tmp_path / "cache", 32)
        assert same(store, stored("imagenet-10", tmp_path / "three", tmp_path / "other", 32))
        first = tmp_path / "three" / "train" / PAPERS[0] / f"{PAPERS[0]}_0.JPEG"
        assert np.array_equal(store.train.images[0], decode_image(str(first), 32))

    def test_its_ten_classes_are_cut_from_the_original_archives_too(self, tmp_path, of_three_classes):
        for name in ("tree", "tars"):
            write_imagenet(tmp_path / name, (*NUMBERS, *OTHERS))
        pack_imagenet(tmp_path / "tars", (*NUMBERS, *OTHERS))
        tree, tars = (stored("imagenet-10", tmp_path / name, tmp_path / f"{name}-cache", 32) for name in ("tree", "tars"))
        assert tars.classes.names == PAPERS and same(tree, tars)

    def test_a_tree_of_other_classes_is_refused_and_they_are_named(self, tmp_path):
        write_imagenet(tmp_path, NUMBERS)
        text = refusal("imagenet-1k", tmp_path, tmp_path, None)
        assert "missing: 'n01440764'" in text and "and 989 more" in text
        text = refusal("imagenet-10", tmp_path, tmp_path, None)
        assert all(f"'{name}'" in text for name in class_lists.IMAGENET10 if name not in NUMBERS) and "not expected" not in text

    def test_when_missing_it_says_which_files_go_where_and_why(self, tmp_path):
        text = refusal("imagenet-1k", None, tmp_path, None)
        assert all(words in text for words in (str(tmp_path / "imagenet-1k"), "ILSVRC2012_img_train.tar", "licence", "image-net.org"))

    @pytest.mark.parametrize("missing", ["ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12.tar.gz"])
    def test_an_archive_that_is_missing_beside_the_others_is_named(self, tmp_path, of_three_classes, missing):
        pack_imagenet(write_imagenet(tmp_path, NUMBERS), NUMBERS)
        (tmp_path / missing).unlink()
        assert f"lacks {missing}" in refusal("imagenet-1k", tmp_path, tmp_path, None)

    @pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"])
    @pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2 - 100], lambda data: b"", lambda data: b"no archive" * 200])
    def test_a_damaged_archive_is_named(self, tmp_path, of_three_classes, name, damage):
        pack_imagenet(write_imagenet(tmp_path, NUMBERS), NUMBERS)
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))
        assert name in refusal("imagenet-1k", tmp_path, tmp_path, None)

    def test_the_published_lists_have_all_classes_in_the_order_of_their_numbers(self):
        for classes, count in ((class_lists.imagenet_1k(), 1000), (class_lists.imagenet_21k_p(), 10_450)):
            assert len(set(classes)) == count and list(classes) == sorted(classes)
        assert set(class_lists.IMAGENET10) < set(class_lists.imagenet_1k()) and len(set(class_lists.IMAGENET10)) == 10

    def test_titles_are_all_different(self):
        titles = class_lists.titles_of(class_lists.imagenet_1k())
        assert len(set(titles)) == 1000 and titles[0] == "tench"
        assert [title for title in titles if title.startswith("crane")] == ["crane (n02012849)", "crane (n03126707)"]


class TestImageNet21kP:
    def test_the_release_unpacked_and_as_one_tar_are_the_same_dataset(self, tmp_path, of_three_classes):
        for name in ("tree", "tar"):
            write_imagenet(tmp_path / name / "imagenet21k_resized", NUMBERS, names=("imagenet21k_train", "imagenet21k_val"))
            write_tree(tmp_path / name / "imagenet21k_resized" / "imagenet21k_small_classes", classes=OTHERS, train=1, test=1)
        pack_tar(tmp_path / "tar" / "imagenet21k_resized", tmp_path / "tar" / "imagenet21k_resized.tar", "w")
        tree, tar = (locate("imagenet-21k-p", tmp_path / name, tmp_path, 32) for name in ("tree", "tar"))
        assert (tree.layout, tar.layout) == ("imagenet-tree", "imagenet-21k-tar")
        assert (tar.fingerprint, tar.classes, tar.train_counts) == (tree.fingerprint, tree.classes, (3, 3, 3))
        stores = [stored("imagenet-21k-p", tmp_path / name, tmp_path / f"{name}-cache", 32) for name in ("tree", "tar")]
        assert same(*stores)

    def test_a_gzip_archive_says_to_unpack_it(self, tmp_path):
        (tmp_path / "imagenet21k_resized.tar.gz").touch()
        assert "tar -xzf" in refusal("imagenet-21k-p", tmp_path, tmp_path, None)


def bad_tar(path, change):
    """Write a tar archive with one harmless member and one that `change` has altered."""
    with tarfile.open(path, "w") as archive:
        for name in ("n01749939.tar", "n02107142.tar"):
            member = tarfile.TarInfo(name)
            if name == "n02107142.tar":
                change(member)
            archive.addfile(member, io.BytesIO(b""))


BAD = {
    "absolute": lambda member: setattr(member, "name", "/etc/cron.d/x.JPEG"),
    "above": lambda member: setattr(member, "name", "a/../../x.JPEG"),
    "link": lambda member: (setattr(member, "type", tarfile.SYMTYPE), setattr(member, "linkname", "/etc/passwd")),
    "hard link": lambda member: (setattr(member, "type", tarfile.LNKTYPE), setattr(member, "linkname", "n01749939.tar")),
    "device": lambda member: setattr(member, "type", tarfile.CHRTYPE),
    "pipe": lambda member: setattr(member, "type", tarfile.FIFOTYPE),
}


class TestHostileArchives:
    @pytest.mark.parametrize("change", BAD.values(), ids=BAD)
    @pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
    def test_a_tar_member_that_is_no_plain_file_in_its_folder_is_refused(self, tmp_path, of_three_classes, change, name):
        pack_imagenet(write_imagenet(tmp_path, NUMBERS), NUMBERS)
        before = sorted(tmp_path.rglob("*"))
        bad_tar(tmp_path / name, change)
        text = refusal("imagenet-1k", tmp_path, tmp_path, None)
        assert f"{name} is refused" in text or "none of the 6 images" in text
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("name", "kind"), [("/etc/x.JPEG", 0o100644), ("../x.JPEG", 0o100644), ("a/x.JPEG", 0o120777), ("c:/x.JPEG", 0)]
    )
    def test_a_zip_member_that_is_no_plain_file_in_its_folder_is_refused(self, tmp_path, name, kind):
        archive = tmp_path / "tiny-imagenet-200.zip"
        zip_folder(write_tiny_imagenet(tmp_path), archive)
        with zipfile.ZipFile(archive, "a") as packed:
            member = zipfile.ZipInfo(name)
            member.external_attr = kind << 16
            packed.writestr(member, "/etc/passwd")
        assert "tiny-imagenet-200.zip is refused" in refusal("tiny-imagenet", tmp_path, tmp_path, None)

    def test_a_zip_file_cut_short_is_named(self, tmp_path):
        archive = tmp_path / "tiny-imagenet-200.zip"
        zip_folder(write_tiny_imagenet(tmp_path), archive)
        archive.write_bytes(archive.read_bytes()[:-300])
        assert "tiny-imagenet-200.zip is damaged" in refusal("tiny-imagenet", tmp_path, tmp_path, None)

    def test_a_member_that_is_no_image_is_named_with_its_archive(self, tmp_path):
        folder = write_tiny_imagenet(tmp_path)
        (folder / "train" / TINY[0] / "images" / f"{TINY[0]}_1.JPEG").write_text("no image")
        zip_folder(folder, tmp_path / "tiny-imagenet-200.zip")
        with pytest.raises(UserError, match=f"{TINY[0]}_1.JPEG in .*tiny-imagenet-200.zip cannot be decoded: not an image"):
            stored("tiny-imagenet", tmp_path, tmp_path / "cache")


class TestOrder:
    def test_the_order_of_folders_on_disk_changes_nothing(self, tmp_path):
        for place, classes in (("a", ("ant", "bee", "cat")), ("b", ("cat", "ant", "bee"))):
            for split in ("train", "test"):
                for name in classes:
                    (tmp_path / place / split / name).mkdir(parents=True)
                    picture((5, len(split), ord(name[0]))).save(tmp_path / place / split / name / "x.png")
        one, other = (locate("folder", tmp_path / place, tmp_path, 32) for place in "ab")
        assert (one.fingerprint, one.classes.digest) == (other.fingerprint, other.classes.digest)
        assert same(*(stored("folder", tmp_path / place, tmp_path / f"{place}-cache", 32) for place in "ab"))

    def test_classes_with_other_names_are_told_apart(self, tmp_path):
        write_tree(tmp_path / "a", classes=("ant", "bee"))
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        for split in ("train", "test"):
            (tmp_path / "b" / split / "ant").rename(tmp_path / "b" / split / "wasp")
        one, other = (locate("folder", tmp_path / place, tmp_path, 32) for place in "ab")
        assert one.classes.digest != other.classes.digest and one.fingerprint != other.fingerprint


class TestVeryManyFiles:
    @pytest.fixture
    def tree(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "FILES_READ_WHOLE", 9)
        return write_tree(tmp_path / "data")  # 2 x 3 + 2 x 2

    def test_only_the_first_of_each_class_is_read(self, tmp_path, tree, monkeypatch):
        read = []
        monkeypatch.setattr(sources, "digest_file", lambda path: read.append(path.name) or "0")
        locate("folder", tree, tmp_path, None)
        assert read == ["0.png"] * 4

    def test_a_file_more_is_noticed_and_the_second_look_asks_no_file(self, tmp_path, tree, monkeypatch):
        first = locate("folder", tree, tmp_path, None, tmp_path / "cache")
        monkeypatch.setattr(sources, "_scan", None)
        assert locate("folder", tree, tmp_path, None, tmp_path / "cache") == first
        monkeypatch.undo()
        monkeypatch.setattr(sources, "FILES_READ_WHOLE", 9)
        shutil.copy(tree / "train" / "cat" / "0.png", tree / "train" / "cat" / "9.png")
        second = locate("folder", tree, tmp_path, None, tmp_path / "cache")
        assert second.fingerprint != first.fingerprint and second.train_counts == (4, 3)


def test_a_list_of_files_keeps_names_of_any_bytes(tmp_path):
    names = [f"/data/train/{name}.png" for name in ("a", "ü", b"\xff\xfe".decode("utf-8", "surrogateescape"), "")]
    files = FileList.of(names, "/data/t")
    files.save(tmp_path, "train")
    again = FileList.load(tmp_path, "train", "/data/t")
    assert list(again) == again[:] == list(files) == names and again[-2] == names[2] and len(again) == 4
    with pytest.raises(IndexError):
        again[4]

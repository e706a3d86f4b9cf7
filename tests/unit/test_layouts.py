"""Reading datasets in their original layouts; nothing in them is executed."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from small_datasets import CIFAR10, pack_cifar10, write_cifar10, write_fashion_mnist

from engine.data.layouts import read_cifar_batch, read_idx, read_layout
from engine.data.sources import locate
from engine.errors import UserError


def read(name, root):
    source = locate(name, root, root, None)
    return read_layout(source.layout, source.paths, source.classes.names)


class TestCifarBatches:
    @pytest.mark.parametrize("pack", [False, True])
    def test_images_and_labels_come_out_in_their_order(self, tmp_path, pack):
        images, labels = write_cifar10(tmp_path)
        if pack:
            pack_cifar10(tmp_path)
        train, test = read("cifar10", tmp_path)
        assert np.array_equal(train.images, images) and np.array_equal(train.labels, labels)
        assert test.images.shape == (10, 3, 32, 32)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-python.tar.gz" if pack else "cifar-10-batches-py"]

    def test_a_batch_as_python_2_wrote_it_is_read(self):
        # Opcodes of protocol 2 where text is a byte string, which latin-1 brings back.
        pixels = bytes(range(256)) * 12
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86"
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            b"\x89T\x00\x0c\x00\x00" + pixels + b"tb"
        )
        split = read_cifar_batch(io.BytesIO(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x07eu."), "batch")
        assert split.labels.tolist() == [7] and split.images.tobytes() == pixels

    @pytest.mark.parametrize("call", [os.system, eval, np.load, io.open, pickle.loads])
    def test_a_pickle_that_would_call_something_is_refused_and_nothing_is_called(self, tmp_path, call):
        class Malicious:
            def __reduce__(self):
                return call, (f"touch {tmp_path}/called",)

        with pytest.raises(UserError, match="bad_batch is refused") as caught:
            read_cifar_batch(io.BytesIO(pickle.dumps({"data": Malicious(), "labels": [1]}, protocol=2)), "bad_batch")
        assert call.__name__ in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_an_object_array_is_refused(self):
        with pytest.raises(UserError, match="unsigned bytes"):
            read_cifar_batch(io.BytesIO(pickle.dumps({"data": np.array([{}], dtype=object), "labels": [1]}, protocol=2)), "batch")

    @pytest.mark.parametrize("content", [b"", b"\x80\x02}", b"hello", pickle.dumps([1]), pickle.dumps({"data": 3, "labels": [2]})])
    def test_a_damaged_batch_is_named(self, tmp_path, content):
        write_cifar10(tmp_path)
        (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(content)
        with pytest.raises(UserError, match="data_batch_2 is not a CIFAR-10 batch"):
            read("cifar10", tmp_path)

    def test_a_truncated_archive_is_named(self, tmp_path):
        write_cifar10(tmp_path)
        pack_cifar10(tmp_path)
        archive = tmp_path / "cifar-10-python.tar.gz"
        archive.write_bytes(archive.read_bytes()[:-4000])
        with pytest.raises(UserError, match="cifar-10-python.tar.gz"):
            read("cifar10", tmp_path)

    def test_a_link_in_the_archive_is_refused(self, tmp_path):
        with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(member)
        with pytest.raises(UserError, match="refused: its member cifar-10-batches-py/data_batch_1 is a link"):
            read("cifar10", tmp_path)


class TestIdx:
    def test_images_and_labels_come_out_in_their_order(self, tmp_path):
        images, labels = write_fashion_mnist(tmp_path)
        train, _ = read("fashion-mnist", tmp_path)
        assert np.array_equal(train.images, images) and train.labels.tolist() == labels.tolist()

    @pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: data[:40], lambda data: b"", lambda data: b"text"])
    def test_a_damaged_file_is_named(self, tmp_path, damage):
        write_fashion_mnist(tmp_path)
        path = tmp_path / "train-images-idx3-ubyte.gz"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(UserError, match="train-images-idx3-ubyte.gz") as caught:
            read_idx(path, 3)
        assert "\n" not in str(caught.value)

    def test_labels_in_place_of_images_are_told_apart(self, tmp_path):
        write_fashion_mnist(tmp_path)
        with pytest.raises(UserError, match="3 dimensions"):
            read_idx(tmp_path / "train-labels-idx1-ubyte.gz", 3)

    def test_a_label_beyond_the_classes_is_an_error(self, tmp_path):
        write_fashion_mnist(tmp_path)
        source = locate("fashion-mnist", tmp_path, tmp_path, None)
        with pytest.raises(UserError, match=r"outside 0\.\.8"):
            read_layout(source.layout, source.paths, CIFAR10[:9])


def test_digits_become_bytes_of_full_range(tmp_path):
    source = locate("digits", None, tmp_path, None)
    train, _ = read_layout(source.layout, source.paths, source.classes.names)
    assert train.images.dtype == np.uint8 and train.images.shape == (1198, 8, 8)
    assert (train.images.min(), train.images.max()) == (0, 255)
    assert set(np.unique(train.images)) <= {int(value * 255 / 16 + 0.5) for value in range(17)}

"""Condensed datasets: written once, read anywhere."""

import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

from engine.data.condensed import contact_sheet, read_condensed, write_condensed
from engine.data.header import read_header
from engine.data.sources import ClassIndex
from engine.data.store import to_device
from engine.errors import UserError

CLASSES = ClassIndex(("airplane", "T-shirt/top"))
MEAN, STD = (0.5, 0.25, 0.125), (0.2, 0.25, 0.5)


def some_images(count=4, side=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8), torch.arange(count) % 2


def written(folder, **metadata):
    images, labels = some_images()
    return write_condensed(folder, images, labels, classes=CLASSES, mean=MEAN, std=STD, metadata=metadata)


class TestReading:
    def test_what_was_written_is_read(self, tmp_path):
        images, labels = some_images()
        path = written(tmp_path / "new", method="edc")
        assert path == tmp_path / "new" / "images.safetensors"
        for place in (path, path.parent):
            dataset = read_condensed(place)
            assert torch.equal(dataset.images, images) and torch.equal(dataset.labels, labels)
            assert (dataset.classes, dataset.mean, dataset.std, dataset.metadata) == (CLASSES, MEAN, STD, {"method": "edc"})

    def test_soft_labels_come_back_as_logits_and_are_absent_where_none_came(self, tmp_path):
        images, labels = some_images()
        soft_labels = np.random.default_rng(0).normal(size=(4, 2))
        about = {"classes": CLASSES, "mean": MEAN, "std": STD, "metadata": {}}
        path = write_condensed(tmp_path, images, labels, **about, soft_labels=soft_labels)
        assert torch.equal(read_condensed(path).soft_labels, torch.from_numpy(soft_labels).float())
        assert read_header(path).soft_labels
        write_condensed(tmp_path, images, labels, **about)
        assert read_condensed(path).soft_labels is None and not read_header(path).soft_labels

    def test_an_item_is_a_normalised_image_and_its_label(self, tmp_path):
        images, _ = some_images()
        dataset = read_condensed(written(tmp_path))
        image, label = dataset[3]
        assert image.dtype == torch.float32 and label == 1 and len(dataset) == 4
        expected = [(images[3, c].numpy() / 255 - MEAN[c]) / STD[c] for c in range(3)]
        assert np.allclose(image.numpy(), np.stack(expected), atol=1e-6)

    def test_torchs_loader_makes_batches_of_it(self, tmp_path):
        (batch,) = torch.utils.data.DataLoader(read_condensed(written(tmp_path)), batch_size=4)
        assert batch[0].shape == (4, 3, 8, 8) and batch[1].tolist() == [0, 1, 0, 1]

    def test_numpy_arrays_give_the_same_file_as_tensors(self, tmp_path):
        images, labels = some_images()
        numpy = write_condensed(tmp_path / "b", images.numpy(), labels.numpy(), classes=CLASSES, mean=MEAN, std=STD, metadata={})
        assert numpy.read_bytes() == written(tmp_path / "a").read_bytes()

    def test_a_fresh_process_needs_only_torch_and_safetensors(self, tmp_path):
        path = written(tmp_path / "a", method="edc", seed=0)
        code = (
            "import sys, json, torch, safetensors\n"
            "with safetensors.safe_open(sys.argv[1], 'pt') as file:\n"
            "    facts, images, labels = json.loads(file.metadata()['condensed']), file.get_tensor('images'), file.get_tensor('labels')\n"
            "mean, std = torch.tensor(facts['mean']), torch.tensor(facts['std'])\n"
            "exec(facts['normalisation'])\n"
            "print(x.sum().item(), [facts['classes'][label] for label in labels], facts['ipc'])\n"
        )
        output = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
        expected = sum(image for image, _ in read_condensed(path)).sum().item()
        total, rest = output.split(maxsplit=1)
        assert float(total) == pytest.approx(expected, rel=1e-4)
        assert rest.strip() == "['airplane', 'T-shirt/top', 'airplane', 'T-shirt/top'] 2"

    def test_the_order_of_metadata_does_not_change_the_bytes(self, tmp_path):
        first, second = written(tmp_path / "a", b=1, a=[2]), written(tmp_path / "b", a=[2], b=1)
        assert first.read_bytes() == second.read_bytes()
        with safetensors.safe_open(first, "pt") as file:
            assert list(file.metadata()) == ["condensed"]  # several keys would come in another order in each process


class TestRefusing:
    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"no condensed images at .*images\.safetensors"):
            read_condensed(tmp_path)

    def test_a_damaged_or_foreign_file_is_named(self, tmp_path):
        path = written(tmp_path)
        whole = path.read_bytes()
        contents = [b"", whole[:100], whole[:-10], safetensors.torch.save({"images": torch.zeros(1)})]
        facts = {"condensed": '{"classes": ["a"], "mean": [0, 0, 0], "std": [1, 1, 1], "provenance": {}}'}
        images, labels = some_images()
        contents.append(safetensors.torch.save({"images": images, "labels": labels}, metadata=facts))  # labels beyond the one class
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(UserError, match="is not a condensed dataset or is damaged") as caught:
                read_condensed(path)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("change", [{"labels": [0, 1, 2, 0]}, {"labels": [0, 1]}, {"images": np.zeros((4, 1, 8, 8), np.uint8)},
                                        {"images": np.zeros((4, 3, 8, 8), np.float32)}, {"soft_labels": torch.zeros(4, 3)},
                                        {"soft_labels": torch.zeros(3, 2)}, {"soft_labels": torch.full((4, 2), torch.nan)}])
    def test_what_does_not_fit_together_is_not_written(self, tmp_path, change):
        images, labels = some_images()
        values = {"images": images, "labels": labels} | change
        with pytest.raises(ValueError):
            write_condensed(tmp_path, **values, classes=CLASSES, mean=MEAN, std=STD, metadata={})
        assert list(tmp_path.iterdir()) == []


class TestPictures:
    def test_png_files_lie_in_folders_that_sort_in_label_order(self, tmp_path):
        dataset = read_condensed(written(tmp_path))
        dataset.as_png(tmp_path / "png")
        paths = sorted((tmp_path / "png").rglob("*.png"))
        assert [str(path.relative_to(tmp_path / "png")) for path in paths] == [
            "0_airplane/000.png", "0_airplane/001.png", "1_T-shirt_top/000.png", "1_T-shirt_top/001.png",
        ]
        assert np.array_equal(np.asarray(Image.open(paths[1])).transpose(2, 0, 1), dataset.images[2].numpy())

    def test_a_folder_with_something_in_it_is_left_alone(self, tmp_path):
        dataset = read_condensed(written(tmp_path))
        with pytest.raises(UserError, match="empty folder"):
            dataset.as_png(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1

    def test_the_contact_sheet_has_a_row_a_class_and_keeps_pixels_whole(self, tmp_path):
        images, labels = some_images()
        contact_sheet(images, labels, CLASSES, tmp_path / "sheet.png")
        sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
        for number, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
            enlarged = images[number].permute(1, 2, 0).numpy().repeat(8, 0).repeat(8, 1)
            top, left = 20 + row * 68, sheet.shape[1] - 20 - 132 + column * 68
            assert np.array_equal(sheet[top : top + 64, left : left + 64], enlarged)
        names = sheet[20:152, : sheet.shape[1] - 172]
        assert (names != sheet[0, 0]).any(axis=(1, 2)).sum() > 10  # something is written at the left
        assert sheet.shape[0] == 2 * 64 + 4 + 40

    def test_columns_and_rows_beyond_the_limits_are_left_out(self, tmp_path):
        images, labels = some_images(12, 128)
        contact_sheet(images, labels, CLASSES, tmp_path / "all.png")
        contact_sheet(images, labels, CLASSES, tmp_path / "part.png", columns_limit=2, rows_limit=1)
        whole, part = (Image.open(tmp_path / name).size for name in ("all.png", "part.png"))
        assert whole[1] == 2 * 112 + 4 + 40
        assert part[0] < whole[0] and 112 + 40 < part[1] < whole[1]


def test_images_come_to_the_device_unchanged_slab_by_slab(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 4)).astype(np.uint8)
    monkeypatch.setattr("engine.data.store.SLAB_BYTES", 150)
    assert np.array_equal(to_device(images, "cpu").numpy(), images)
    assert to_device(images[:0], "cpu").shape == (0, 3, 4, 4)

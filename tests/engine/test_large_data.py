"""Data that fit neither memory nor device: the same results, whether images are mapped, streamed or resident, tables whole or in shards."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import CLASSES, SIDE, flat_settings, pictures, small_inputs_of, stopping_report

from engine.data.decode import prepare
from engine.data.sources import locate
from engine.data.store import open_store, to_device
from engine.errors import RunError, Stopped, UserError
from engine.matching import table_files
from engine.matching.table_files import ShardedTable, TableWriter, open_table
from engine.matching.tables import StatisticsTable, TableAccumulator
from engine.stages import inputs as stage_inputs
from engine.stages import read_ahead
from engine.stages.initialise import initialise
from engine.stages.inputs import ClassImages, RealImages
from engine.stages.read_ahead import ReadAhead
from engine.stages.report import Report
from engine.stages.squeeze import squeeze
from engine.stages.statistics import statistics


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The 60 small pictures as PNG files in class folders, mapped and streamed."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 15), ("test", 8)):
        for index, image in enumerate(pictures(count, len(split))):
            folder = root / split / CLASSES[index // count]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index:03d}.png")
    source = locate("folder", root, root, SIDE)
    return {kind: open_store(prepare(source, root / "cache", store=kind)) for kind in ("memory-map", "stream")}


WAYS = {"resident": ("memory-map", 1 << 30), "mapped": ("memory-map", 0), "streamed": ("stream", 0), "streamed once": ("stream", 1 << 30)}


def each_way(stores, monkeypatch, result):
    """Call `result(inputs, way)` for every way to hold the images and return what it gave."""
    found = []
    for way, (kind, held) in WAYS.items():
        monkeypatch.setattr(stage_inputs, "RESIDENT_BYTES", held)
        found.append(result(stores[kind], way))
    return found


class TestHowImagesAreHeld:
    def test_training_measuring_and_statistics_end_in_the_same_bytes(self, stores, monkeypatch, tmp_path):
        def result(store, way):
            folder = tmp_path / way
            folder.mkdir()
            inputs = small_inputs_of(store, observer=(folder,))
            settings = flat_settings(observer="convnet-d1-w8", squeeze__epochs=2, squeeze__batch_size=14, squeeze__padding=2)
            accuracy = squeeze(settings, inputs, folder, Report())
            statistics(settings | {"statistics.batch_size": 8}, inputs, folder, Report())
            return accuracy, *((folder / name).read_bytes() for name in ("observer.safetensors", "table.safetensors"))

        found = each_way(stores, monkeypatch, result)
        assert all(other == found[0] for other in found[1:])

    @pytest.mark.parametrize("source", ["real", "rded", "herding"])
    def test_starting_images_are_the_same(self, stores, squeezed, monkeypatch, tmp_path, source):
        def result(store, way):
            folder = tmp_path / way
            folder.mkdir()
            inputs = small_inputs_of(store, scorer=(squeezed("convnet-d1-w8"),))
            rded = {"rded.factor": 2, "rded.candidates": 9, "rded.crops": 2, "rded.crop_scale": [0.3, 1.0], "rded.tile_order": "stratified"}
            own = {"source": source, "seed": 0, "ipc": 2, "rded": rded, "save": None}
            initialise(own | {"replacement": "never", "flip": False, "shuffle_patches": 0}, inputs, folder, Report())
            return (folder / "images.safetensors").read_bytes()

        found = each_way(stores, monkeypatch, result)
        assert all(other == found[0] for other in found[1:])

    def test_a_resumed_training_goes_on_where_batches_were_being_read(self, stores, monkeypatch, tmp_path):
        monkeypatch.setattr(stage_inputs, "RESIDENT_BYTES", 0)
        settings = flat_settings(observer="convnet-d1-w8", squeeze__epochs=2, squeeze__batch_size=14, squeeze__padding=2)
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        for folder in (whole, broken):
            folder.mkdir()
        squeeze(settings, small_inputs_of(stores["stream"]), whole, Report())
        with pytest.raises(Stopped):
            squeeze(settings, small_inputs_of(stores["stream"]), broken, stopping_report(5))
        squeeze(settings, small_inputs_of(stores["stream"]), broken, Report())
        assert (broken / "observer.safetensors").read_bytes() == (whole / "observer.safetensors").read_bytes()

    def test_all_or_some_rows_come_to_a_device(self, stores):
        rows = np.array([1, 3, 44])
        for store in stores.values():
            assert np.array_equal(to_device(store.train.images, "cpu").numpy(), stores["memory-map"].train.images)
            assert np.array_equal(to_device(store.train.images, "cpu", rows).numpy(), stores["memory-map"].train.images[rows])

    def test_of_a_class_only_the_images_asked_for_are_read(self, stores):
        store = stores["stream"]
        images = ClassImages(store.train, store.train.rows_of_class(2))
        expected = torch.from_numpy(np.array(stores["memory-map"].train.images[30:45]))
        assert len(images) == 15 and images.shape == (15, 3, SIDE, SIDE)
        assert torch.equal(images[torch.tensor([14, 0, 0])], expected[[14, 0, 0]]) and torch.equal(images[3:7], expected[3:7])

    def test_grey_is_told_from_colour_in_a_stream(self, stores):
        assert not small_inputs_of(stores["stream"]).grey

    def test_a_damaged_image_ends_the_stage_with_its_name(self, stores, monkeypatch, tmp_path):
        monkeypatch.setattr(stage_inputs, "RESIDENT_BYTES", 0)
        split = stores["stream"].train
        broken = tmp_path / "broken.png"
        broken.write_text("no image")
        monkeypatch.setattr(split.images, "files", [*split.images.files[:7], str(broken)])
        images = RealImages(split, "cpu")
        images.upcoming(torch.arange(8).split(4))
        assert len(images.take(torch.arange(4))) == 4
        with pytest.raises(UserError, match="broken.png cannot be decoded"):
            images.take(torch.arange(4, 8))


class TestReadingAhead:
    @pytest.fixture
    def fetched(self):
        """Batches in the order in which they were fetched."""
        return []

    def ahead(self, fetched, batches, image_bytes=1):
        return ReadAhead(lambda indices: fetched.append(indices.tolist()) or indices * 10, batches, image_bytes)

    def test_batches_come_in_their_order_whichever_is_read_first(self, fetched):
        gate = threading.Event()

        def fetch(indices):
            if indices[0] == 0:
                gate.wait(10)
            else:
                gate.set()
            return indices * 10

        batches = torch.arange(6).split(2)
        reader = ReadAhead(fetch, batches, 1)
        assert [reader.take(batch).tolist() for batch in batches] == [[0, 10], [20, 30], [40, 50]]

    def test_no_more_is_read_than_memory_is_set_aside_for(self, fetched, monkeypatch):
        monkeypatch.setattr(read_ahead, "BYTES_AHEAD", 300)
        reader = self.ahead(fetched, torch.arange(20).split(1), image_bytes=100)
        assert len(reader._waiting) == 3
        reader.take(torch.tensor([0]))
        assert len(reader._waiting) == 3

    def test_a_batch_that_was_not_announced_is_left_to_the_caller(self, fetched):
        reader = self.ahead(fetched, [torch.tensor([1, 2])])
        assert reader.take(torch.tensor([2, 1])) is None
        assert reader.take(torch.tensor([1, 2])).tolist() == [10, 20]
        assert reader.take(torch.tensor([1, 2])) is None

    def test_after_its_end_nothing_more_is_read(self, fetched):
        reader = self.ahead(fetched, torch.arange(100).split(1))
        reader.end()
        assert reader.take(torch.tensor([0])) is None and len(fetched) <= read_ahead.MOST_BATCHES_AHEAD


@pytest.fixture
def tables(squeezed, monkeypatch, tmp_path, small_inputs):
    """The same table whole and in shards of a class or two, by the real stage."""
    whole = squeezed("convnet-d1-w8")
    columns = StatisticsTable.load(whole / "table.safetensors").mean.shape[1]
    monkeypatch.setattr(table_files, "SHARD_BYTES", 2 * table_files.row_bytes(columns) - 1)
    settings = flat_settings(observer="convnet-d1-w8", squeeze__padding=2, statistics__batch_size=8)
    small_inputs.folders["observer"] = (whole,)
    statistics(settings, small_inputs, tmp_path, Report())
    one = tmp_path / "one"
    one.mkdir()
    monkeypatch.setattr(table_files, "SHARD_BYTES", 1 << 30)
    statistics(settings, small_inputs, one, Report())
    return StatisticsTable.load(one / "table.safetensors"), open_table(tmp_path), settings


class TestShards:
    def test_a_large_table_is_several_files_of_class_rows(self, tables, tmp_path):
        whole, sharded, _ = tables
        assert isinstance(sharded, ShardedTable) and sharded.shards == (("table-00000.safetensors", 0), ("table-00001.safetensors", 2))
        assert (sharded.segments, sharded.patch, sharded.counts.tolist()) == (whole.segments, whole.patch, whole.counts.tolist())

    def test_it_gives_the_targets_of_a_whole_one(self, tables):
        whole, sharded, _ = tables
        labels = torch.tensor([[3, 0, 0], [1, 2, 3]])
        for variance in ("pooled", "within_image"):
            assert torch.equal(sharded.class_moments(labels, variance), whole.class_moments(labels, variance))
            torch.testing.assert_close(sharded.class_target(labels, variance), whole.class_target(labels, variance), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(sharded.global_moments(), whole.global_moments(), rtol=1e-6, atol=1e-7)
        assert sharded.to("cpu").class_target(labels).device.type == "cpu"

    def test_a_small_table_is_read_whole(self, squeezed):
        assert isinstance(open_table(squeezed("convnet-d1-w8")), StatisticsTable)

    def test_only_the_files_of_the_classes_asked_for_are_opened(self, tables, tmp_path):
        whole, sharded, _ = tables
        (tmp_path / "table-00001.safetensors").unlink()
        assert torch.equal(sharded.class_moments(torch.tensor([1, 0])), whole.class_moments(torch.tensor([1, 0])))
        with pytest.raises(UserError, match="table-00001.safetensors is not a readable part of a statistics table"):
            sharded.class_moments(torch.tensor([2]))

    @pytest.mark.parametrize("stop_after", [2, 5])
    def test_an_interrupted_pass_ends_in_the_same_files(self, tables, monkeypatch, tmp_path, small_inputs, squeezed, stop_after):
        _, _, settings = tables
        again = tmp_path / "again"
        again.mkdir()
        columns = open_table(tmp_path).whole.shape[1]
        monkeypatch.setattr(table_files, "SHARD_BYTES", 2 * table_files.row_bytes(columns) - 1)
        small_inputs.folders["observer"] = (squeezed("convnet-d1-w8"),)
        with pytest.raises(Stopped):
            statistics(settings, small_inputs, again, stopping_report(stop_after))
        assert not (again / "table.safetensors").exists()
        statistics(settings, small_inputs, again, Report())
        for name in ("table.safetensors", "table-00000.safetensors", "table-00001.safetensors"):
            assert (again / name).read_bytes() == (tmp_path / name).read_bytes()

    def test_a_writer_that_lacks_classes_says_so(self, tmp_path):
        writer = TableWriter(tmp_path, 3)
        writer.append(torch.zeros(3, 2, 5))
        with pytest.raises(RunError, match="2 classes came, 3 were expected"):
            writer.finish((), None, torch.ones(3))


class TestClassAfterClass:
    def collected(self, labels, tmp_path, classes=5):
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)).eval()
        writer = TableWriter(tmp_path, classes)
        accumulator = TableAccumulator(model, classes=classes, patch=4, rows=writer)
        held = []
        with torch.no_grad():
            for part in labels:
                with accumulator.batch(torch.tensor(part)):
                    model(torch.rand(len(part), 3, 8, 8))
                held.append(accumulator.state()[0]["sums"].shape[1])
        accumulator.flush()
        return held

    def test_sums_are_kept_for_the_classes_of_the_latest_batch_alone(self, tmp_path):
        assert self.collected([[0, 0], [0, 1], [1, 1], [2, 3, 4], [4]], tmp_path) == [1, 2, 1, 3, 1]

    def test_an_image_whose_class_is_finished_is_refused(self, tmp_path):
        with pytest.raises(RunError, match="an image of class 0 came after class 1"):
            self.collected([[0], [1, 1], [0]], tmp_path)

    @pytest.mark.parametrize(("labels", "missing"), [([[1]], 0), ([[0], [2, 3, 4]], 1), ([[0, 2], [3, 4]], 1), ([[0, 1, 2, 3]], 4)])
    def test_a_class_without_images_is_named(self, tmp_path, labels, missing):
        with pytest.raises(RunError, match=f"no image of class {missing} was seen"):
            self.collected(labels, tmp_path)

"""Weights of torchvision and timm, from small files where the real ones would lie, and what is said when they cannot be fetched."""

import hashlib
import urllib.error

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from engine.data.sources import ClassIndex
from engine.data.store import ImageStore, Split
from engine.errors import UserError
from engine.models import published
from engine.models.class_orders import rows_of, synsets
from engine.models.published import Entry, timm_weights, torchvision_entry, torchvision_weights
from engine.models.registry import create_model
from engine.stages.pretrained import take_over
from engine.stages.report import Report
from tests.engine.small_runs import small_inputs_of

WNIDS = ("n02869837", "n01749939", "n02488291")  # of ImageNet-10, in its order, which is not the alphabetical one
IMAGENET = (0.485, 0.456, 0.406, 0.229, 0.224, 0.225)
NAME = "shufflenet-v2-0.5"


def store(side=128, classes=WNIDS) -> ImageStore:
    labels = np.repeat(np.arange(len(classes)), 2)
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 3, side, side)).astype(np.uint8)
    split = Split(images, labels)
    return ImageStore(split, split, ClassIndex(classes), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), side, "by hand", True)


def settings(**changes):
    told = {"observer": NAME, "weights": "torchvision:IMAGENET1K_V1", "path": None, "content": None}
    return told | {"accuracy": None, "normalisation": None, "class_order": None} | changes


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A server's folder with one file, named by its hash as torchvision's are; the data root is empty."""
    monkeypatch.setenv("EDC_DATA", str(tmp_path / "data"))
    torch.manual_seed(0)
    weights = create_model(NAME, 1000, 224).state_dict()
    torch.save(weights, tmp_path / "plain.pth")
    digest = hashlib.sha256((tmp_path / "plain.pth").read_bytes()).hexdigest()
    path = (tmp_path / "plain.pth").rename(tmp_path / f"shufflenetv2_x0.5-{digest[:10]}.pth")
    monkeypatch.setattr(published, "torchvision_entry", lambda name, tag: Entry(path.as_uri(), None, IMAGENET))
    return path, weights


class TestTorchvision:
    def test_tells_where_its_weights_lie_and_what_they_reach(self):
        entry = torchvision_entry("resnet18", "IMAGENET1K_V1")
        assert entry == Entry("https://download.pytorch.org/models/resnet18-f37072fd.pth", 69.758, IMAGENET)

    def test_weights_that_it_does_not_have_are_refused_with_those_it_has(self):
        with pytest.raises(UserError, match=r"no weights 'V3' of resnet50; it has: IMAGENET1K_V1, IMAGENET1K_V2"):
            torchvision_entry("resnet50", "V3")

    def test_are_fetched_into_the_data_root_and_kept_for_the_classes_that_the_dataset_has(self, net, tmp_path):
        path, weights = net
        inputs = small_inputs_of(store())
        take_over(settings(), inputs, tmp_path, Report())
        assert (tmp_path / "data" / "weights" / path.name).is_file()
        observer = inputs.observer(tmp_path)
        rows = [sorted(synsets(1000)).index(wnid) for wnid in WNIDS]
        assert torch.equal(observer.fc.weight, weights["fc.weight"][rows])
        assert torch.equal(observer.conv1[0].weight, weights["conv1.0.weight"])
        path.unlink()  # once is enough
        take_over(settings(), inputs, tmp_path, Report())

    def test_see_images_normalised_as_in_their_training(self, net, tmp_path):
        inputs = small_inputs_of(store())
        take_over(settings(), inputs, tmp_path, Report())
        own = create_model(NAME, 1000, 224).eval()
        own.load_state_dict(net[1])
        images = torch.from_numpy(inputs.store.test.images)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET[:3], IMAGENET[3:]))
        rows = [synsets(1000).index(wnid) for wnid in WNIDS]
        expected = own((images / 255 - mean) / std)[:, rows]
        torch.testing.assert_close(inputs.observer(tmp_path)(inputs.normalise(images)), expected, atol=1e-4, rtol=1e-3)

    def test_an_accuracy_far_below_the_published_one_is_refused(self, net, tmp_path, monkeypatch):
        monkeypatch.setattr(published, "torchvision_entry", lambda name, tag: Entry(net[0].as_uri(), 99.9, IMAGENET))
        with pytest.raises(UserError, match=r"torchvision's shufflenet-v2-0.5: .* where 99.9 % are claimed"):
            take_over(settings(), small_inputs_of(store()), tmp_path, Report())

    def test_other_classes_than_imagenets_are_refused(self, net, tmp_path):
        with pytest.raises(UserError, match=r"1000 outputs|'cat' is none of them") as caught:
            take_over(settings(), small_inputs_of(store(classes=("cat", "dog", "frog"))), tmp_path, Report())
        assert "\n" not in str(caught.value)

    def test_without_network_one_line_says_where_to_put_the_file(self, tmp_path, monkeypatch):
        def unreachable(*_, **__):
            raise urllib.error.URLError("Name or service not known")

        monkeypatch.setattr(torch.hub, "urlopen", unreachable)
        with pytest.raises(UserError) as caught:
            torchvision_weights("resnet18", "IMAGENET1K_V1", tmp_path)
        said = str(caught.value)
        assert "cannot fetch https://download.pytorch.org/models/resnet18-f37072fd.pth: Name or service not known" in said
        assert f"put the file resnet18-f37072fd.pth into {tmp_path}" in said
        assert "\n" not in said

    def test_a_file_that_is_not_what_its_name_says_is_refused(self, net, tmp_path):
        folder = tmp_path / "data" / "weights"
        folder.mkdir(parents=True)
        (folder / net[0].name).write_bytes(net[0].read_bytes()[:-1])
        with pytest.raises(UserError, match="is not the file that its name says"):
            torchvision_weights(NAME, "IMAGENET1K_V1", folder)

    def test_a_download_with_another_hash_is_refused(self, net, tmp_path):
        net[0].write_bytes(net[0].read_bytes() + b"more")
        with pytest.raises(UserError, match="invalid hash value"):
            torchvision_weights(NAME, "IMAGENET1K_V1", tmp_path / "data")


class TestTimm:
    def test_are_taken_from_a_file_in_the_data_root_and_loaded_by_timm_itself(self, tmp_path):
        torch.manual_seed(0)
        weights = timm.create_model("test_resnet", num_classes=1000).state_dict()
        save_file(weights, tmp_path / "test_resnet.r160_in1k.safetensors")
        found = timm_weights("timm/test_resnet", "", 160, tmp_path)
        assert all(torch.equal(found.tensors[key], value) for key, value in weights.items())
        assert found.classes == synsets(1000)
        assert found.normalisation == (0.5,) * 6

    def test_without_network_one_line_says_where_to_put_the_file(self, tmp_path, monkeypatch):
        def unreachable(*_, **__):
            raise OSError("We couldn't connect to the Hub\nand more of it")

        monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
        with pytest.raises(UserError) as caught:
            timm_weights("timm/test_resnet", "r160_in1k", 160, tmp_path)
        assert "We couldn't connect to the Hub; where there is no network, put its model.safetensors into" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_weights_that_it_does_not_have_are_refused_with_those_it_has(self, tmp_path):
        with pytest.raises(UserError, match="no weights 'a9' of timm/test_resnet; it has: r160_in1k"):
            timm_weights("timm/test_resnet", "a9", 160, tmp_path)


class TestImageNetsClasses:
    def test_are_the_ids_in_alphabetical_order(self):
        assert len(synsets(1000)) == 1000
        assert list(synsets(1000)) == sorted(synsets(1000))
        assert synsets(1000)[:2] == ("n01440764", "n01443537")  # tench, goldfish

    def test_those_of_imagenet_21k_p_are_known_too(self):
        assert len(synsets(10450)) == 10450

    def test_a_class_that_is_none_of_them_is_named(self):
        with pytest.raises(UserError, match="'cat' is none of them .*WordNet ids such as n01440764"):
            rows_of(("cat",), synsets(1000), 1000, "it")

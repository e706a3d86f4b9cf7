"""Which real images of a class stand for it: each choice against a slow one written down from its paper."""

import numpy as np
import pytest
import torch
from small_runs import CLASSES, pictures, small_inputs_of, small_store
from torch import nn

from engine.compute.seeding import generator
from engine.data.condensed import read_condensed
from engine.errors import RunError
from engine.models.registry import create_model
from engine.stages import coresets
from engine.stages.coresets import easy, head, herding, k_center, medium, read_out, unit_length
from engine.stages.initialise import initialise
from engine.stages.report import Report


def some_features(count=40, width=6, seed=0):
    return torch.randn(count, width, generator=generator("features", seed), dtype=torch.float64)


def slow_herding(features, ipc):
    """iCaRL's Algorithm 4: image k is the one that brings the mean of the first k nearest to the class's mean."""
    features = features.numpy()
    mean, chosen = features.mean(0), []
    for _ in range(ipc):
        distances = {
            index: np.linalg.norm(mean - np.mean([features[other] for other in [*chosen, index]], axis=0))
            for index in range(len(features))
            if index not in chosen
        }
        chosen.append(min(distances, key=distances.get))
    return chosen


def slow_k_center(features, ipc):
    features = features.numpy()
    chosen = [int(np.argmin([np.linalg.norm(row - features.mean(0)) for row in features]))]
    while len(chosen) < ipc:
        left = [index for index in range(len(features)) if index not in chosen]
        chosen.append(max(left, key=lambda index: min(np.linalg.norm(features[index] - features[other]) for other in chosen)))
    return chosen


class TestDifficulty:
    def test_easy_images_are_those_with_the_highest_probability_of_their_class(self):
        assert easy(torch.tensor([0.1, 0.9, 0.5, 0.7]).log(), 2).tolist() == [1, 3]

    @pytest.mark.parametrize(("ipc", "expected"), [(1, [2]), (2, [2, 3]), (3, [1, 2, 3]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 2, 3, 4, 5])])
    def test_medium_images_are_the_window_in_the_middle_of_the_ranking(self, ipc, expected):
        ranked = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]).log()
        assert medium(ranked, ipc).tolist() == expected
        shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
        assert shuffled[medium(ranked[shuffled], ipc)].tolist() == expected

    def test_ties_go_to_the_earlier_image(self):
        same = torch.zeros(6)
        assert easy(same, 3).tolist() == [0, 1, 2] and medium(same, 2).tolist() == [2, 3]


class TestFeatures:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("ipc", [1, 7, 40])
    def test_herding_is_icarls(self, seed, ipc):
        features = unit_length(some_features(seed=seed))
        assert herding(features, ipc).tolist() == slow_herding(features, ipc)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("ipc", [1, 7, 40])
    def test_k_center_always_takes_the_farthest(self, seed, ipc):
        features = unit_length(some_features(seed=seed))
        assert k_center(features, ipc).tolist() == slow_k_center(features, ipc)

    def test_among_copies_the_earlier_image_is_chosen_and_none_twice(self):
        copies = some_features(8).repeat(3, 1)
        for choice in (herding, k_center):
            assert choice(copies, 1).item() < 8
            assert sorted(choice(copies, 24).tolist()) == list(range(24))
        assert herding(torch.ones(5, 2, dtype=torch.float64), 3).tolist() == [0, 1, 2]
        assert k_center(torch.ones(5, 2, dtype=torch.float64), 3).tolist() == [0, 1, 2]

    def test_herding_follows_the_mean_better_than_chance(self):
        features = unit_length(some_features(200, 8))
        distance = (features[herding(features, 20)].mean(0) - features.mean(0)).norm()
        random = [(features[torch.randperm(200, generator=generator(seed))[:20]].mean(0) - features.mean(0)).norm() for seed in range(20)]
        assert distance < min(random) / 3

    def test_features_have_length_one_and_zeros_stay(self):
        unit = unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        assert torch.equal(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


class TestReadingOut:
    @pytest.mark.parametrize("name", ["convnet-d1-w8", "resnet18-w8", "wrn-10-1", "mobilenet-v2", "shufflenet-v2-0.5", "vit-tiny"])
    def test_features_are_what_the_last_layer_turns_into_the_logits(self, name):
        inputs = small_inputs_of(small_store())
        torch.manual_seed(0)
        model = create_model(name, 4, 16).eval()
        images = torch.from_numpy(pictures(3, 1))
        logits, features = read_out(images, model, inputs)
        last = head(model, 4)
        torch.testing.assert_close(features.float() @ last.weight.T + last.bias, logits.float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits.float(), model(inputs.normalise(images)), atol=1e-4, rtol=1e-4)
        assert logits.shape == (12, 4) and logits.dtype == features.dtype == torch.float64
        assert not last._forward_pre_hooks

    @pytest.mark.parametrize("name", ["resnet18", "alexnet", "squeezenet1_1", "swin_v2_t", "vit-b-16", "deit-tiny", "swin-tiny"])
    def test_networks_for_large_images_have_a_last_layer_too(self, name):
        with torch.device("meta"):
            model = create_model(name, 7, 224).eval()
            entered = []
            last = head(model, 7)
            last.register_forward_pre_hook(lambda module, given: entered.append(coresets._pooled(module, given[0])))
            model(torch.empty(2, 3, 224, 224))
        assert entered[0].shape == (2, last.weight.shape[1])

    def test_many_images_are_read_in_batches(self, monkeypatch):
        inputs = small_inputs_of(small_store())
        torch.manual_seed(0)
        model, images = create_model("convnet-d1-w8", 4, 16).eval(), torch.from_numpy(pictures(3, 1))
        whole = read_out(images, model, inputs)
        seen = []
        model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        monkeypatch.setattr(coresets, "BATCH_PIXELS", 5 * 16**2)
        parts = read_out(images, model, inputs)
        assert seen == [5, 5, 2]
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)

    def test_positions_are_averaged(self):
        features = torch.randn(2, 5, 3, 3)
        torch.testing.assert_close(coresets._pooled(nn.Conv2d(5, 4, 1), features), features.mean((2, 3)))
        torch.testing.assert_close(coresets._pooled(nn.Linear(3, 4), features), features.mean((1, 2)))

    def test_a_network_without_a_last_layer_is_refused_in_one_line(self):
        with pytest.raises(RunError, match="no last layer"):
            head(nn.Sequential(nn.Flatten(), nn.ReLU()), 4)


@pytest.mark.parametrize("source", ["easy", "medium", "herding", "k-center"])
def test_a_stage_chooses_whole_images_of_each_class_as_a_slow_loop_does(source, squeezed, tmp_path):
    inputs = small_inputs_of(small_store(), scorer=(squeezed("convnet-d1-w8"),))
    settings = {"source": source, "seed": 0, "ipc": 4, "flip": False, "shuffle_patches": 0, "save": None, "rded": None}
    initialise(settings, inputs, tmp_path, Report())
    condensed = read_condensed(tmp_path)
    rows = condensed.metadata["training_rows"]
    assert condensed.labels.tolist() == [label for label in range(len(CLASSES)) for _ in range(4)]
    assert np.array_equal(condensed.images.numpy(), inputs.store.train.images[sum(rows, [])])

    model = inputs.observer(inputs.folder("scorer"))
    for label in range(len(CLASSES)):
        real = torch.from_numpy(inputs.store.train.images[label * 15 : (label + 1) * 15])
        with torch.no_grad():
            features = model[:-1](inputs.normalise(real)).double()
            ranked = model(inputs.normalise(real)).softmax(1)[:, label].argsort(descending=True).tolist()
        unit = features / features.norm(dim=1, keepdim=True)
        slow = {"easy": ranked[:4], "medium": ranked[5:9], "herding": slow_herding(unit, 4), "k-center": slow_k_center(unit, 4)}
        assert [row - label * 15 for row in rows[label]] == slow[source]

    initialise(settings | {"seed": 5}, inputs, tmp_path / "again", Report())
    assert torch.equal(read_condensed(tmp_path / "again").images, condensed.images)  # nothing is drawn

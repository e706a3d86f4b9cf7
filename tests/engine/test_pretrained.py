"""Observers from files: what is understood, what is refused and why, and that the same network comes out as was put in."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.compute.checkpoint import load_tensors
from engine.data.sources import ClassIndex
from engine.errors import UserError
from engine.matching.layers import matched_layers
from engine.models.registry import create_model
from engine.models.weights import read_weights
from engine.stages import training
from engine.stages.inputs import RealImages, renormalise
from engine.stages.pretrained import take_over
from engine.stages.report import Report
from engine.stages.squeeze import squeeze
from tests.engine.small_runs import CLASSES, SIDE, flat_settings, small_inputs_of, small_store

NAME = "convnet-d2-w8-bn"
NUMERIC = ("1", "2", "10", "20")  # sorted as numbers; as words 1, 10, 2, 20
SQUEEZE = {"squeeze__epochs": 12, "squeeze__batch_size": 10, "squeeze__learning_rate": 0.1, "squeeze__padding": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of an observer that this program has squeezed, and what it is right about."""
    folder = tmp_path_factory.mktemp("squeezed")
    inputs = small_inputs_of(small_store())
    result = squeeze(flat_settings(observer=NAME, **SQUEEZE), inputs, folder, Report())
    assert result["top1"] > 80
    return folder, result["top1"], load_tensors(folder / "observer.safetensors")[0]


@pytest.fixture
def take(tmp_path):
    """Take a file over as an observer of the small pictures; returns the result and the folder it lies in."""

    def taking(path, store=None, logs=None, **settings):
        folder = tmp_path / "taken"
        folder.mkdir(exist_ok=True)
        inputs = small_inputs_of(store or small_store())
        told = {"observer": NAME, "weights": "file", "path": str(path), "content": "", "accuracy": None}
        told |= {"normalisation": None, "class_order": None, **settings}
        report = Report(on_log=lambda text, level: None if logs is None else logs.append(text))
        return take_over(told, inputs, folder, report), inputs, folder

    return taking


def refusal(take, path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        take(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def renamed_store(names):
    store = small_store()
    return store.__class__(**{**store.__dict__, "classes": ClassIndex(names)})


def in_order(tensors, order):
    """The same network whose outputs stand in another order: output i is what output order[i] was."""
    head = {key: value for key, value in tensors.items() if value.shape[:1] == (len(CLASSES),)}
    return tensors | {key: value[list(order)] for key, value in head.items()}


class TestFiles:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda weights: weights,
            lambda weights: {"state_dict": weights, "epoch": 3},
            lambda weights: {"model": {f"module.{key}": value for key, value in weights.items()}, "optimizer": {"state": {}}},
            lambda weights: {"net": weights, "acc": 93.5},
            lambda weights: {f"_orig_mod.module.{key}": value for key, value in weights.items()},
            lambda weights: {"n_averaged": torch.tensor(7)} | {f"module.{key}": value for key, value in weights.items()},
            lambda weights: {f"model.{key}": value for key, value in weights.items()},
            lambda weights: {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")},
        ],
    )
    def test_state_dicts_are_found_in_their_wrappings(self, wrap, trained, take, tmp_path):
        _, top1, weights = trained
        torch.save(wrap(weights), tmp_path / "weights.pth")
        result, inputs, folder = take(tmp_path / "weights.pth", accuracy=top1)
        assert result["top1"] == top1
        loaded = inputs.observer(folder).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in weights.items() if not key.endswith("tracked"))

    @pytest.mark.parametrize("ending", ["safetensors", "pt"])
    def test_safetensors_are_understood_whatever_they_are_called(self, ending, trained, take, tmp_path):
        _, top1, weights = trained
        save_file(weights, tmp_path / f"weights.{ending}", metadata={"accuracy": str(top1), "classes": json.dumps(CLASSES)})
        result, *_ = take(tmp_path / f"weights.{ending}")
        assert (result["top1"], result["claimed"]) == (top1, top1)

    def test_an_observer_that_this_program_squeezed_brings_its_claim_and_classes_along(self, trained, take):
        folder, top1, _ = trained
        result, *_ = take(folder / "observer.safetensors")
        assert (result["top1"], result["claimed"]) == (top1, top1)

    @pytest.mark.parametrize(("said", "claimed"), [({"best_acc1": torch.tensor(0.9)}, 90.0), ({"acc": 88}, 88.0), ({"epoch": 7}, None)])
    def test_a_training_checkpoint_tells_its_accuracy(self, said, claimed, tmp_path):
        torch.save({"state_dict": {"weight": torch.zeros(2)}} | said, tmp_path / "weights.pth")
        assert read_weights(tmp_path / "weights.pth").accuracy == pytest.approx(claimed) if claimed else True

    def test_a_residual_network_of_another_code_base_is_read_by_its_names(self, tmp_path, take):
        weights = create_model("resnet18-w2", 4, SIDE).state_dict()
        torch.save({k.replace("fc.", "linear.").replace(".downsample.", ".shortcut."): v for k, v in weights.items()}, tmp_path / "w.pth")
        _, inputs, folder = take(tmp_path / "w.pth", observer="resnet18-w2")
        assert torch.equal(inputs.observer(folder).fc.weight, weights["fc.weight"])


class Trap:
    def __reduce__(self):
        return (exec, ("open('executed', 'w')",))


class TestNothingIsExecuted:
    def test_a_pickled_module_is_refused_in_one_line(self, take, tmp_path):
        torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
        assert "holds more than tensors" in refusal(take, tmp_path / "module.pt")

    @pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
    def test_code_in_a_file_does_not_run(self, save, take, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save({"state_dict": Trap()}, tmp_path / "trap.pt")
        refusal(take, tmp_path / "trap.pt")
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x08\x00\x00\x00\x00\x00\x00\x00{broken}", b"PK\x03\x04cut off"])
    def test_what_is_no_file_of_weights_is_one_line(self, content, take, tmp_path):
        (tmp_path / "junk.pth").write_bytes(content)
        assert "junk.pth" in refusal(take, tmp_path / "junk.pth")

    def test_values_that_are_no_numbers_are_refused(self, trained, take, tmp_path):
        broken = dict(trained[2])
        key = next(key for key in broken if key.endswith("0.weight"))
        broken[key] = broken[key] * float("nan")
        torch.save(broken, tmp_path / "nan.pt")
        assert "no numbers" in refusal(take, tmp_path / "nan.pt")


class TestFit:
    def test_another_network_is_refused_with_the_first_weight_that_differs(self, trained, take, tmp_path):
        torch.save(trained[2], tmp_path / "w.pt")
        assert "is no convnet-d2-w16-bn at 16 px" in refusal(take, tmp_path / "w.pt", observer="convnet-d2-w16-bn")
        assert "are missing" in refusal(take, tmp_path / "w.pt", observer="wrn-10-1")

    def test_a_stem_for_large_images_is_named(self, take, tmp_path):
        weights = create_model("resnet18-w2", 4, SIDE).state_dict()
        weights["conv1.weight"] = torch.zeros(2, 3, 7, 7)
        torch.save(weights, tmp_path / "w.pt")
        assert "made for larger images" in refusal(take, tmp_path / "w.pt", observer="resnet18-w2")

    def test_other_classes_are_refused(self, trained, take, tmp_path):
        torch.save(create_model(NAME, 10, SIDE).state_dict(), tmp_path / "w.pt")
        assert "10 outputs" in refusal(take, tmp_path / "w.pt")

    def test_a_network_of_more_classes_gives_the_rows_of_those_that_the_dataset_has(self, trained, take, tmp_path):
        _, top1, weights = trained
        wide = create_model(NAME, 6, SIDE).state_dict()
        order = ["ant", *reversed(CLASSES), "yak"]
        for key, value in weights.items():
            wide[key] = value if value.shape == wide[key].shape else torch.cat([wide[key][:1], value.flip(0), wide[key][:1]])
        save_file(wide, tmp_path / "w.safetensors", metadata={"classes": json.dumps(order)})
        assert take(tmp_path / "w.safetensors", accuracy=top1)[0]["top1"] == top1


class TestClassOrder:
    @pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2)])
    def test_a_file_that_names_its_classes_is_right_in_any_order(self, order, trained, take, tmp_path):
        _, top1, weights = trained
        names = json.dumps([CLASSES[index] for index in order])
        save_file(in_order(weights, order), tmp_path / "w.safetensors", metadata={"classes": names})
        assert take(tmp_path / "w.safetensors", accuracy=top1)[0]["top1"] == top1

    def test_another_order_is_refused_and_found(self, trained, take, tmp_path):
        _, top1, weights = trained
        torch.save(in_order(weights, (1, 3, 0, 2)), tmp_path / "w.pt")
        said = refusal(take, tmp_path / "w.pt", accuracy=top1)
        assert f"where {top1:.1f} % are claimed: its classes seem to be in another order (cat, frog, bird, dog" in said
        assert 'set observers.class_order = { convnet-d2-w8-bn = ["cat", "frog", "bird", "dog"] }' in said
        taken, *_ = take(tmp_path / "w.pt", accuracy=top1, class_order=["cat", "frog", "bird", "dog"])
        assert taken["top1"] == top1

    def test_numbers_sorted_as_words_are_called_so(self, trained, take, tmp_path):
        _, top1, weights = trained
        store = renamed_store(NUMERIC)
        torch.save(in_order(weights, [NUMERIC.index(name) for name in sorted(NUMERIC)]), tmp_path / "w.pt")
        said = refusal(take, tmp_path / "w.pt", store=store, accuracy=top1)
        assert "in another order (alphabetical: 1, 10, 2, 20" in said
        assert 'class_order = { convnet-d2-w8-bn = "alphabetical" }' in said
        assert take(tmp_path / "w.pt", store=store, accuracy=top1, class_order="alphabetical")[0]["top1"] == top1

    def test_without_a_claim_it_is_refused_all_the_same(self, trained, take, tmp_path):
        torch.save(in_order(trained[2], (1, 3, 0, 2)), tmp_path / "w.pt")
        assert "another order" in refusal(take, tmp_path / "w.pt")


class TestNormalisation:
    def test_other_constants_are_refused_and_found(self, trained, take, tmp_path):
        _, top1, weights = trained
        torch.save(weights, tmp_path / "w.pt")
        said = refusal(take, tmp_path / "w.pt", accuracy=top1, normalisation=[2.0, 2.0, 2.0, 0.1, 0.1, 0.1])
        assert "its images seem to be normalised otherwise: with the given constants" in said
        assert 'set observers.normalisation = { convnet-d2-w8-bn = "dataset" }' in said
        assert take(tmp_path / "w.pt", accuracy=top1, normalisation="dataset")[0]["top1"] == top1

    def test_other_constants_and_another_order_are_found_together(self, trained, take, tmp_path):
        _, top1, weights = trained
        torch.save(in_order(weights, (1, 3, 0, 2)), tmp_path / "w.pt")
        said = refusal(take, tmp_path / "w.pt", accuracy=top1, normalisation=[2.0, 2.0, 2.0, 0.1, 0.1, 0.1])
        assert 'class_order = { convnet-d2-w8-bn = ["cat", "frog", "bird", "dog"] }' in said
        assert 'and observers.normalisation = { convnet-d2-w8-bn = "dataset" }' in said

    def test_the_same_constants_leave_the_network_as_it_is(self):
        model = create_model(NAME, 4, SIDE)
        renormalise(model, ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2)), ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2)))
        assert not model._forward_pre_hooks

    def test_another_ones_map_the_images_and_leave_layers_names_and_padding_as_they_were(self):
        torch.manual_seed(0)
        plain, adapted = create_model(NAME, 4, SIDE).eval(), create_model(NAME, 4, SIDE).eval()
        adapted.load_state_dict(plain.state_dict())
        here, own = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), ((0.5, 0.5, 0.5), (0.5, 0.4, 0.3))
        renormalise(adapted, here, own)
        pixels = torch.rand(3, 3, SIDE, SIDE)

        def normalised(mean, std):
            return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

        torch.testing.assert_close(adapted(normalised(*here)), plain(normalised(*own)))
        assert [layer.name for layer in matched_layers(adapted)] == [layer.name for layer in matched_layers(plain)]
        assert adapted.state_dict().keys() == plain.state_dict().keys()

    def test_an_observer_keeps_its_constants_where_it_is_loaded(self, trained, take, tmp_path):
        _, _, weights = trained
        torch.save(weights, tmp_path / "w.pt")
        _, inputs, folder = take(tmp_path / "w.pt", normalisation=[0.5, 0.5, 0.5, 0.25, 0.25, 0.25], accuracy=None)
        observer = inputs.observer(folder)
        images = RealImages(inputs.store.test, "cpu")
        taken = images.take(torch.arange(6))
        own = create_model(NAME, 4, SIDE).eval()
        own.load_state_dict(weights)
        torch.testing.assert_close(observer(inputs.normalise(taken)), own((taken / 255 - 0.5) / 0.25), atol=1e-4, rtol=1e-4)


def test_an_accuracy_far_below_its_claim_without_a_reason_is_refused_saying_so(take, tmp_path):
    torch.manual_seed(0)
    torch.save(create_model(NAME, 4, SIDE).state_dict(), tmp_path / "w.pt")
    assert "was it trained on other images?" in refusal(take, tmp_path / "w.pt", accuracy=99.0)


def test_what_was_measured_is_told(trained, take, tmp_path):
    logs: list[str] = []
    torch.save(trained[2], tmp_path / "w.pt")
    take(tmp_path / "w.pt", logs=logs)
    assert "set observers.accuracy to have this checked" in logs[0]


def test_random_resized_crops_are_part_of_squeezing():
    inputs = small_inputs_of(small_store())
    images, draws = RealImages(inputs.store.train, "cpu"), torch.Generator().manual_seed(0)
    rows = torch.arange(8)
    plain = training.real_batch(images, rows, inputs, padding=0, flip=False, draws=draws)
    cropped = training.real_batch(images, rows, inputs, padding=0, crop_scale=[0.2, 0.4], flip=False, draws=draws)
    whole = training.real_batch(images, rows, inputs, padding=0, crop_scale=[1.0, 1.0], flip=False, draws=draws)
    assert cropped.shape == plain.shape and not torch.allclose(cropped, plain, atol=0.1)
    assert whole.shape == plain.shape

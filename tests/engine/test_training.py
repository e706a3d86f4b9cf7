"""What observers and students share: weights, decay groups, batches, and measuring."""

import pytest
import torch
from small_runs import small_inputs_of, small_store
from torch import nn

from engine.compute.precision import forward_batch
from engine.compute.seeding import generator
from engine.stages import inputs as stage_inputs
from engine.stages import training
from engine.stages.inputs import RealImages


class Small(nn.Module):
    """A convolution, a batch norm and a linear layer, with one parameter of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)
        self.token = nn.Parameter(torch.ones(1, 2, 3))

    def forward(self, images):
        return self.fc(self.norm(self.conv(images)).mean((2, 3)))


class TestDecay:
    def test_only_weights_of_more_than_one_dimension_are_decayed(self):
        model = Small()
        names = {id(value): name for name, value in model.named_parameters()}
        decayed, kept = training.decay_groups(model, 0.1)
        assert [names[id(value)] for value in decayed["params"]] == ["conv.weight", "fc.weight"]
        assert [names[id(value)] for value in kept["params"]] == ["token", "conv.bias", "norm.weight", "norm.bias", "fc.bias"]
        assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)

    def test_two_steps_of_adamw_are_those_computed_by_hand(self):
        model = Small()
        optimizer = training.make_optimizer("adamw", model, learning_rate=0.01, weight_decay=0.3, momentum=0.9)
        values = {name: [value.detach().double().clone(), 0.0, 0.0] for name, value in model.named_parameters()}
        for step in (1, 2):
            for number, (name, value) in enumerate(model.named_parameters()):
                gradient = torch.full_like(value, (number + 1) * step * 0.1)
                value.grad = gradient
                theta, first, second = values[name]
                theta = theta * (1 - 0.01 * (0.3 if name in ("conv.weight", "fc.weight") else 0))
                first, second = 0.9 * first + 0.1 * gradient.double(), 0.999 * second + 0.001 * gradient.double() ** 2
                corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
                values[name] = [theta - 0.01 * corrected[0] / (corrected[1].sqrt() + 1e-8), first, second]
            optimizer.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.detach().double(), values[name][0], rtol=1e-5, atol=1e-6)

    def test_sgd_has_the_momentum_asked_for_and_adam_no_decoupled_decay(self):
        sgd = training.make_optimizer("sgd", Small(), learning_rate=0.1, weight_decay=0.0, momentum=0.8)
        assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.8
        adam = training.make_optimizer("adam", Small(), learning_rate=0.1, weight_decay=0.0, momentum=0.8)
        assert type(adam) is torch.optim.Adam

    def test_the_learning_rate_reaches_every_group(self):
        optimizer = training.make_optimizer("sgd", Small(), learning_rate=0.1, weight_decay=0.1, momentum=0.9)
        training.set_learning_rate(optimizer, 0.025)
        assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.025]


class TestFreshModel:
    def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(self, small_inputs):
        first = training.fresh_model("wrn-10-1", small_inputs, 0, "student").state_dict()
        torch.rand(100)
        second = training.fresh_model("wrn-10-1", small_inputs, 0, "student").state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_other_seeds_give_other_weights(self, small_inputs):
        weights = [training.fresh_model("wrn-10-1", small_inputs, *seed).conv1.weight for seed in ((0, "a"), (1, "a"), (0, "b"))]
        assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])

    def test_the_global_generator_is_left_alone(self, small_inputs):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        training.fresh_model("wrn-10-1", small_inputs, 0)
        assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    ("layer", "drops"),
    [(nn.Dropout(0.1), True), (nn.Dropout2d(0.1), True), (nn.Identity(), False), (nn.BatchNorm2d(3), False)],
)
def test_dropout_is_found(layer, drops):
    assert training.has_dropout(nn.Sequential(nn.Conv2d(3, 3, 1), layer)) is drops


class TestEpochBatches:
    def test_every_image_is_seen_once_in_an_order_of_the_epoch(self):
        batches = training.epoch_batches(50, 16, 0, "order", 3)
        assert [len(batch) for batch in batches] == [16, 16, 16, 2]
        assert sorted(torch.cat(batches).tolist()) == list(range(50))
        again, other = training.epoch_batches(50, 16, 0, "order", 3), training.epoch_batches(50, 16, 0, "order", 4)
        assert torch.equal(torch.cat(batches), torch.cat(again)) and not torch.equal(torch.cat(batches), torch.cat(other))

    def test_a_last_batch_of_one_image_is_left_out(self):
        assert [len(batch) for batch in training.epoch_batches(49, 16, 0)] == [16, 16, 16]

    def test_one_image_is_a_batch_where_there_is_no_other(self):
        assert [len(batch) for batch in training.epoch_batches(1, 16, 0)] == [1]

    def test_no_image_is_left_out_where_single_images_are_asked_for(self):
        assert [len(batch) for batch in training.epoch_batches(3, 1, 0)] == [1, 1, 1]


class ByFirstPixel(nn.Module):
    """Says the classes in the order in which the red pixels of the first row are bright."""

    def forward(self, images):
        return images[:, 0, 0, :7]


def test_small_images_pass_a_network_together_as_many_as_a_cpus_caches_hold():
    assert [forward_batch("cpu", side) for side in (8, 16, 32, 64, 224, 512)] == [512, 256, 64, 16, 1, 1]
    assert forward_batch("cuda", 224) == forward_batch("cuda:1", 32) == 512


class TestMeasure:
    def inputs(self, ranks):
        """Seven classes; the true class of an image (0) has the given rank among them."""
        store = small_store(classes=("a", "b", "c", "d", "e", "f", "g"))
        images = store.test.images.copy()[: len(ranks)]
        for image, rank in zip(images, ranks, strict=True):
            image[0, 0, :7] = [200 if column == 0 else 220 if column <= rank else 10 + column for column in range(7)]
        store.test.images.resize(images.shape, refcheck=False)
        store.test.images[:] = images
        object.__setattr__(store.test, "labels", store.test.labels[: len(ranks)] * 0)
        return small_inputs_of(store)

    def test_top1_and_top5_are_shares_in_percent(self):
        inputs = self.inputs([0, 0, 1, 4, 5, 6, 2, 3])
        images = RealImages(inputs.store.test, "cpu")
        assert training.measure(ByFirstPixel(), images, inputs) == {"top1": 25.0, "top5": 75.0}

    def test_the_last_smaller_batch_counts_by_its_images(self):
        inputs = self.inputs([0, 0, 1, 4, 5, 6, 2, 3])
        images = RealImages(inputs.store.test, "cpu")
        assert training.measure(ByFirstPixel(), images, inputs, batch_size=3) == {"top1": 25.0, "top5": 75.0}

    def test_top5_is_not_told_where_it_means_little(self, small_inputs):
        class First(nn.Module):
            def forward(self, images):
                return torch.tensor([1.0, 0, 0, 0]).expand(len(images), 4)

        images = RealImages(small_inputs.store.test, "cpu")
        assert training.measure(First(), images, small_inputs) == {"top1": 25.0}

    def test_it_uses_evaluation_mode_and_leaves_the_mode_as_it_was(self, small_inputs):
        model = training.fresh_model("wrn-10-1", small_inputs, 0)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        training.measure(model, RealImages(small_inputs.store.test, "cpu"), small_inputs)
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class TestRealImages:
    def test_images_too_large_to_stay_on_the_device_are_read_by_index_in_the_order_asked_for(self, small_inputs, monkeypatch):
        indices = torch.tensor([40, 3, 3, 59, 0])
        split = small_inputs.store.train
        resident = RealImages(split, "cpu").take(indices)
        monkeypatch.setattr(stage_inputs, "RESIDENT_BYTES", 0)
        read = RealImages(split, "cpu").take(indices)
        assert torch.equal(resident, torch.from_numpy(split.images[indices.numpy()]))
        assert torch.equal(read, resident)

    def test_a_batch_without_padding_and_mirror_is_the_normalised_image(self, small_inputs):
        images = RealImages(small_inputs.store.train, "cpu")
        batch = training.real_batch(images, torch.tensor([5]), small_inputs, padding=0, flip=False, draws=generator(0))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (small_inputs.store.mean, small_inputs.store.std))
        torch.testing.assert_close(batch[0], ((torch.from_numpy(small_inputs.store.train.images[5]) / 255 - mean) / std).float())

    def test_a_padded_batch_holds_each_image_shifted_over_black(self, small_inputs):
        images = RealImages(small_inputs.store.train, "cpu")
        batch = training.real_batch(images, torch.arange(8), small_inputs, padding=2, flip=False, draws=generator(0))
        seen = small_inputs.to_uint8(batch)
        for index in range(8):
            padded = torch.nn.functional.pad(torch.from_numpy(small_inputs.store.train.images[index]), (2, 2, 2, 2))
            windows = [padded[:, top : top + 16, left : left + 16] for top in range(5) for left in range(5)]
            assert sum(torch.equal(seen[index], window) for window in windows) >= 1

    def test_pixels_survive_normalising_and_back(self, small_inputs):
        images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
        assert torch.equal(small_inputs.to_uint8(small_inputs.normalise(images)), images)

    def test_truncating_cuts_off_what_rounding_would_round_up(self, small_inputs):
        almost = (torch.full((1, 3, 1, 1), 100.7) / 255 - small_inputs.mean) / small_inputs.std
        assert small_inputs.to_uint8(almost).flatten().tolist() == [101, 101, 101]
        assert small_inputs.to_uint8(almost, truncate=True).flatten().tolist() == [100, 100, 100]


def in_memory(tensor):
    """The values in the order in which they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_restored_optimiser_goes_on_in_the_same_bytes_and_the_same_memory_format(name, small_inputs):
    def trained(interrupt: bool):
        model = training.fresh_model("wrn-10-1", small_inputs, 0)
        optimizer = training.make_optimizer(name, model, learning_rate=0.01, weight_decay=0.1, momentum=0.9)
        for step in range(4):
            if interrupt and step == 2:
                model_state = {key: value.contiguous().clone() for key, value in training.model_tensors(model).items()}
                state = {key: value.contiguous().clone() for key, value in training.optimizer_tensors(optimizer).items()}
                model = training.fresh_model("wrn-10-1", small_inputs, 1)
                optimizer = training.make_optimizer(name, model, learning_rate=0.5, weight_decay=0.1, momentum=0.9)
                training.restore_model(model, model_state)
                training.restore_optimizer(optimizer, state)
                training.set_learning_rate(optimizer, 0.01)
            images = torch.randn(8, 3, 16, 16, generator=generator(step)).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
        return model, optimizer

    (model, optimizer), (resumed, resumed_optimizer) = trained(False), trained(True)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())
    for key, value in training.optimizer_tensors(optimizer).items():
        other = training.optimizer_tensors(resumed_optimizer)[key]
        assert torch.equal(in_memory(value), in_memory(other)), key


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("network", ["resnet18-w8", "mobilenet-v2"])
def test_the_fused_optimiser_takes_the_steps_of_the_plain_one(small_inputs, name, network):
    """Weights of every layout: channels_last, 1x1, depthwise, and vectors; five steps with momentum and decay."""
    options = {"learning_rate": 0.01, "weight_decay": 0.05, "momentum": 0.9}
    models = [training.fresh_model(network, small_inputs, 1) for _ in range(2)]
    fused = training.make_optimizer(name, models[0], **options)
    groups = training.decay_groups(models[1], 0.05)
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    plain = torch.optim.SGD(groups, lr=0.01, momentum=0.9) if name == "sgd" else kinds[name](groups, lr=0.01)
    assert fused.defaults["fused"] and not plain.defaults["fused"]
    draws = torch.Generator().manual_seed(3)
    for _ in range(5):
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            one.grad = torch.empty_like(one).copy_(torch.randn(one.shape, generator=draws))
            other.grad = one.grad.clone(memory_format=torch.preserve_format)
        fused.step()
        plain.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)

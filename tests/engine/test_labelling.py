"""Soft labels: what the observers say about a chunk of views."""

import pytest
import torch
from small_runs import flat_settings
from torch import nn
from torch.nn import functional

from engine.data.views import Chunk, ViewSettings, chunks
from engine.stages import labelling
from engine.stages.labelling import balanced, batch_statistics, label_chunk

VIEWS = ViewSettings(seed=0, batch_size=5, crop_scale=(1.0, 1.0), flip=False, mix="none", randaugment=False, shuffle_patches=0)


def a_chunk(count=12, epochs=2) -> Chunk:
    return next(iter(chunks(count, 16, epochs, VIEWS, limit=1000)))


def views_of(chunk):
    return torch.randn(len(chunk.views), 3, 16, 16, generator=torch.Generator().manual_seed(2))


class TestBatchStatistics:
    def network(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()
        with torch.no_grad():
            model[1].running_mean.copy_(torch.arange(4.0))
            model[1].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        return model

    def test_layers_normalise_by_the_batch_they_see(self):
        model, images = self.network(), torch.randn(6, 3, 5, 5)
        with batch_statistics(model), torch.no_grad():
            seen = model(images)
        maps = model[0](images).detach()
        mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), keepdim=True, unbiased=False)
        expected = (maps - mean) / (variance + model[1].eps).sqrt() * model[1].weight.view(1, 4, 1, 1) + model[1].bias.view(1, 4, 1, 1)
        torch.testing.assert_close(seen, expected.detach(), rtol=1e-4, atol=1e-5)

    def test_running_statistics_and_modes_stay_as_they_were(self):
        model = self.network()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with batch_statistics(model), torch.no_grad():
            model(torch.randn(6, 3, 5, 5))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not model[1].training and model[1].track_running_stats

    def test_they_are_put_back_after_an_error(self):
        model = self.network()
        with pytest.raises(RuntimeError), batch_statistics(model):
            model(torch.randn(6, 5, 5, 5))
        assert not model[1].training and model[1].track_running_stats


class TestEnsemble:
    def test_it_is_the_mean_of_raw_logits_of_each_observer_alone(self, small_inputs, squeezed):
        observers = [small_inputs.observer(squeezed(name)) for name in ("resnet18-w8", "convnet-d2-w16")]
        chunk = a_chunk()
        images = views_of(chunk)
        logits = label_chunk(observers, images, chunk, flat_settings(), small_inputs)
        with torch.no_grad():
            alone = [torch.cat([observer.double()(image[None].double()) for image in images]) for observer in observers]
        torch.testing.assert_close(logits.double(), (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-4)
        assert logits.shape == (24, 4) and logits.dtype == torch.float32

    def test_how_many_views_pass_at_once_changes_nothing(self, small_inputs, squeezed, monkeypatch):
        observers = [small_inputs.observer(squeezed("resnet18-w8"))]
        chunk = a_chunk()
        together = label_chunk(observers, views_of(chunk), chunk, flat_settings(), small_inputs)
        monkeypatch.setattr(labelling, "forward_batch", lambda device, side: 7)
        torch.testing.assert_close(label_chunk(observers, views_of(chunk), chunk, flat_settings(), small_inputs), together)

    def test_a_teacher_in_train_mode_labels_each_training_batch_by_itself(self, small_inputs, squeezed):
        observer = small_inputs.observer(squeezed("resnet18-w8"))
        before = {name: value.clone() for name, value in observer.state_dict().items()}
        chunk = a_chunk()
        images = views_of(chunk)
        logits = label_chunk([observer], images, chunk, flat_settings(labels__teacher_batchnorm="train"), small_inputs)
        assert all(torch.equal(value, before[name]) for name, value in observer.state_dict().items())
        observer.train()
        with torch.no_grad():
            expected = torch.cat([observer(images[first:last]) for _, first, last in chunk.batches])
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        evaluated = label_chunk([observer.eval()], images, chunk, flat_settings(), small_inputs)
        assert not torch.allclose(logits, evaluated, atol=1e-2)

    def test_balanced_observers_speak_equally_loud_in_every_training_batch(self, small_inputs):
        class Fixed(nn.Module):
            def __init__(self, factor):
                super().__init__()
                self.factor = factor

            def forward(self, images):
                return functional.adaptive_avg_pool2d(images, 2)[:, 0].flatten(1) * self.factor

        chunk = a_chunk()
        images = views_of(chunk)
        quiet, loud = Fixed(1.0), Fixed(-3.0)
        logits = label_chunk([quiet, loud], images, chunk, flat_settings(labels__ensemble="norm_mean"), small_inputs)
        # Opposite logits at equal norm cancel out; as a plain mean they would not.
        assert logits.abs().max() < 1e-6
        assert label_chunk([quiet, loud], images, chunk, flat_settings(), small_inputs).abs().max() > 0.1


def test_balanced_logits_all_have_the_mean_of_the_norms():
    logits = torch.stack([torch.full((3, 4), 1.0), torch.full((3, 4), 2.0), torch.full((3, 4), -6.0)])
    scaled = balanced(logits)
    assert scaled.flatten(1).norm(dim=1).tolist() == pytest.approx([3 * 12**0.5] * 3)
    torch.testing.assert_close(scaled[2], torch.full((3, 4), -3.0))


def test_an_observer_that_says_nothing_stays_silent():
    logits = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])
    assert torch.isfinite(balanced(logits)).all() and balanced(logits)[0].abs().max() == 0

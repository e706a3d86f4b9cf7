"""The values that a backward pass keeps, as they are foretold and as autograd keeps them."""

import pytest
import torch

from engine.models.registry import activation_count, create_model


@pytest.mark.parametrize(
    "name", ["resnet18-w8", "resnet50-w4", "wrn-16-1", "mobilenet-v2", "convnet-d3-w16", "convnet-d2-w16-bn", "vit-tiny"]
)
def test_they_are_foretold_within_a_third(name):
    model, kept = create_model(name, 10, 32).train(), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (tensor, storage.nbytes() // 4)  # the tensor is held, so that its place is not given away
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(2, 3, 32, 32)).sum()
    measured = sum(count for _, count in kept.values()) / 2
    assert activation_count(name, 32) == pytest.approx(measured, rel=1 / 3)


def test_a_network_that_is_not_counted_has_none():
    assert activation_count("shufflenet-v2-0.5", 32) == activation_count("no-such-network", 32) == activation_count("densenet121", 224) == 0

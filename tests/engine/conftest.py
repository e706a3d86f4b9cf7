"""Fixtures of the engine's tests: one thread, a tiny dataset, and observers trained on it."""

import pytest
import torch
from small_runs import flat_settings, small_inputs_of, small_store

from engine.stages.inputs import Inputs
from engine.stages.report import Report
from engine.stages.squeeze import squeeze
from engine.stages.statistics import statistics

torch.set_num_threads(1)


@pytest.fixture
def small_inputs() -> Inputs:
    """60 training and 32 test images of four classes, 16 px, on the CPU in float32."""
    return small_inputs_of(small_store())


@pytest.fixture(scope="session")
def squeezed(tmp_path_factory):
    """Return a function from a network's name to the folder of it squeezed for three epochs, with its table of statistics."""
    made = {}

    def folder_of(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            inputs = small_inputs_of(small_store(), observer=(folder,))
            settings = flat_settings(observer=name, squeeze__epochs=3, squeeze__batch_size=20, squeeze__padding=2)
            squeeze(settings, inputs, folder, Report())
            statistics(settings, inputs, folder, Report())
            made[name] = folder
        return made[name]

    return folder_of

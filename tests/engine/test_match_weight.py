"""match.weight = "auto": matching counts as much as classification at a batch's first iteration."""

import re
from types import SimpleNamespace

import pytest
import torch
from small_runs import flat_settings, small_inputs_of, small_store, stopping_report
from test_resume import content, killing_report, with_interruptions

from engine.compute.checkpoint import load_checkpoint
from engine.stages.initialise import initialise
from engine.stages.report import Report
from engine.stages.synthesise import _Synthesis, synthesise

OBSERVERS = ("wrn-10-1", "convnet-d2-w16-bn")


@pytest.fixture
def started(squeezed, tmp_path):
    """Inputs of a synthesis of eight images, two of each class, with two observers and their tables."""
    inputs = small_inputs_of(small_store())
    settings = {"source": "real", "seed": 0, "ipc": 2, "replacement": "never", "flip": False, "shuffle_patches": 0, "save": None}
    initialise(settings, inputs, tmp_path / "start", Report())
    folders = tuple(squeezed(name) for name in OBSERVERS)
    inputs.folders |= {"images": (tmp_path / "start",), "observers": folders, "tables": folders}
    return inputs


def settings_of(**changes):
    return flat_settings(**{"condense__ipc": 2, "synthesise__iterations": 3, "batch__size": 0, "match__weight": "auto"} | changes)


def told(inputs, folder, **changes):
    """The values of every iteration, and the weights that were logged."""
    metrics, logs = [], []
    report = Report(on_metrics=lambda step, values: metrics.append(values), on_log=lambda text, level: logs.append(text))
    synthesise(settings_of(**changes), inputs, folder, report)
    weights = [float(re.search(r"match.weight ([\d.e+-]+),", text)[1]) for text in logs if "match.weight" in text]
    return metrics, weights


@pytest.mark.parametrize("rotation", ["round_robin", "random", "all"])
@pytest.mark.parametrize("flatness", ["off", "logit_ema"])
def test_both_parts_are_equal_at_the_first_iteration_of_every_batch_whoever_looks(started, tmp_path, rotation, flatness):
    metrics, weights = told(started, tmp_path / "made", observers__rotation=rotation, batch__size=4, flatness__kind=flatness)
    assert len(metrics) == 6 and len(weights) == 2 and weights[0] != weights[1]
    for step, values in enumerate(metrics):
        weight, flat = weights[step // 3], 0.25 * values.get("flatness", 0.0)
        if step % 3 == 0:
            assert weight == pytest.approx(values["classification"] / values["matching"], rel=1e-3)
        # The same weight throughout the batch, or later iterations would not add up.
        assert values["loss"] == pytest.approx(values["classification"] + weight * values["matching"] + flat, rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"flatness__kind": "sam"}, {"observers__rotation": "all"}], ids=str)
def test_the_images_are_those_of_the_same_number_set_by_hand(started, tmp_path, changes):
    """So no gradient goes through the weight, and a sharpness-aware step takes its second loss with the same one."""
    metrics, _ = told(started, tmp_path / "auto", **changes)
    exact = metrics[0]["classification"] / metrics[0]["matching"]
    told(started, tmp_path / "by-hand", **changes, match__weight=exact)
    made, expected = (tmp_path / "auto" / "images.safetensors", tmp_path / "by-hand" / "images.safetensors")
    assert made.read_bytes()[-8 * 768 :] == expected.read_bytes()[-8 * 768 :]


def test_where_nothing_is_left_to_match_it_is_nothing():
    parts = [{"classification": torch.tensor(2.0), "matching": torch.tensor(0.0)}]
    assert _Synthesis._equalising(SimpleNamespace(report=Report(), batches=1), parts, 0) == 0.0


@pytest.mark.parametrize("report_of", [lambda: stopping_report(1), lambda: killing_report(2)])
def test_it_is_kept_in_the_checkpoint(started, tmp_path, report_of):
    settings = settings_of(batch__size=4, synthesise__iterations=4)
    (tmp_path / "whole").mkdir()
    whole = synthesise(settings, started, tmp_path / "whole", Report())
    result, interruptions = with_interruptions(synthesise, settings, started, tmp_path / "parts", report_of)
    assert result == whole and interruptions >= 2 and content(tmp_path / "parts") == content(tmp_path / "whole")
    assert load_checkpoint(tmp_path / "parts")[1]["weight"] > 0

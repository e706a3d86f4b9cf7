"""Curves of a run's metrics: what they hold, and what is kept where there are too many points."""

import json
import math
import random

import pytest

from engine.runs.curves import curves, reduced
from engine.runs.store import create_run


def write_metrics(run, number, stage, step, rows):
    """Write a metrics log of (step, values) and a torn last line."""
    folder = run.stage_folder(number, stage, step)
    folder.mkdir(parents=True)
    lines = [json.dumps({"t": 1.0, "s": at, "k": values}) + "\n" for at, values in rows]
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"t": 1.0, "s": 9')


@pytest.fixture
def run(tmp_path):
    return create_run(tmp_path, "p", "schema = 1\n")


class TestCurves:
    def test_each_metric_of_each_step_is_one_with_its_student_and_seed(self, run):
        write_metrics(run, 4, "synthesise", "condensed", [(1, {"loss": 2.0, "flatness": 0.5}), (2, {"loss": 1.0, "flatness": "NaN"})])
        write_metrics(run, 6, "evaluate", "random-convnet-d1-w8-seed12", [(10, {"top1": 50.0})])
        first, second, third = curves(run)
        assert (first.stage, first.step, first.metric, first.steps, first.values) == ("synthesise", "condensed", "loss", (1, 2), (2.0, 1.0))
        assert (first.set, first.student, first.seed) == (None, None, None)
        assert second.metric == "flatness" and second.values[0] == 0.5 and math.isnan(second.values[1])
        assert (third.set, third.student, third.seed, third.steps) == ("random", "convnet-d1-w8", 12, (10,))

    def test_what_a_resumed_run_did_again_supersedes_what_it_did_before(self, run):
        write_metrics(run, 4, "synthesise", "condensed", [(1, {"loss": 1.0}), (2, {"loss": 2.0}), (3, {"loss": 3.0}), (2, {"loss": 2.5})])
        (curve,) = curves(run)
        assert (curve.steps, curve.values) == ((1, 2), (1.0, 2.5))

    def test_a_loss_that_is_told_after_the_accuracy_of_its_epoch_takes_nothing_away(self, run):
        rows = [(1, {"loss": 3.0}), (3, {"top1": 50.0}), (2, {"loss": 2.0}), (3, {"loss": 1.0})]
        write_metrics(run, 6, "evaluate", "condensed-net-seed0", rows)
        loss, top1 = curves(run)
        assert (loss.steps, top1.steps) == ((1, 2, 3), (3,))

    def test_a_run_without_metrics_has_none(self, run):
        assert curves(run) == []


class TestReducing:
    def test_few_points_stay(self):
        points = [(step, float(step)) for step in range(10)]
        assert reduced(points, 10) == points

    @pytest.mark.parametrize("count", [11, 100, 999, 12345])
    @pytest.mark.parametrize("limit", [5, 10, 400])
    def test_points_are_of_the_curve_in_order_and_no_more_than_asked_for(self, count, limit):
        draws = random.Random(count)
        points = [(step, draws.random()) for step in range(count)]
        kept = reduced(points, limit)
        assert len(kept) <= limit
        assert kept == sorted(set(kept)) and set(kept) <= set(points)
        assert (kept[0], kept[-1]) == (points[0], points[-1])

    def test_the_lowest_and_the_highest_survive(self):
        points = [(step, 1.0) for step in range(5000)]
        points[1234], points[4321] = (1234, -7.0), (4321, 9.0)
        assert {(1234, -7.0), (4321, 9.0)} <= set(reduced(points, 50))

    def test_a_stretch_that_diverged_shows_it(self):
        points = [(step, 1.0 if step < 3000 else math.nan) for step in range(5000)]
        points[100] = (100, math.inf)
        kept = reduced(points, 60)
        assert len(kept) <= 60
        assert (100, math.inf) in kept
        assert sum(math.isnan(value) for _, value in kept) > 5

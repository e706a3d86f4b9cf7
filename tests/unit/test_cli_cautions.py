"""What `edc check` says before a run: the bytes of its result, and warnings about its settings."""

import json

import pytest

from engine.commands.tables import size

PROJECT = """\
schema = 1

[condense]
method = "random"
ipc = 2

[observers]
labels = ["convnet-w32"]

[evaluate]
students = ["convnet-w32"]
seeds = [0, 1, 2]
epochs = 200
batch_size = 10
ema = 0.9
controls = ["noise"]
"""
WEIGHTS = 3 * 32 * 9 + 32 + 2 * (32 * 32 * 9 + 32) + 3 * 2 * 32 + (32 * 2 * 2 + 1) * 10  # three blocks, 16 px halved three times
IMAGES = 2 * 10 * 3 * 16 * 16


@pytest.fixture
def project(tmp_path):
    path = tmp_path / "projects" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(PROJECT)
    return path


def checked(edc, *overrides):
    words = [word for override in overrides for word in ("--set", override)]
    status, out, err = edc("check", "tiny", "--json", *words)
    assert (status, err) == (0, "")
    return json.loads(out)


class TestBytes:
    def test_images_and_the_weights_of_what_labels_online(self, edc, project):
        assert checked(edc)["bytes"] == {"images": IMAGES, "labels": 0, "teachers": 4 * WEIGHTS}

    def test_stored_labels_take_their_place(self, edc, project):
        assert checked(edc, "labels.mode=stored")["bytes"] == {"images": IMAGES, "labels": 20 * 200 * 10 * 2, "teachers": 0}
        assert checked(edc, "labels.mode=fixed")["bytes"]["labels"] == 20 * 10 * 2

    def test_as_many_real_images_as_fit_are_told_where_they_are_a_control(self, edc, project):
        fit = (IMAGES + 20 * 200 * 10 * 2) // (3 * 16 * 16 * 10)
        told = checked(edc, "labels.mode=stored", 'evaluate.controls=["random", "equal-bytes"]')["bytes"]
        assert (told["real_images_per_class"], told["real_images"]) == (fit, 10 * fit)

    def test_all_are_said_in_a_line(self, edc, project):
        _, out, _ = edc("check", "tiny", "--set", 'evaluate.controls=["random", "equal-bytes"]')
        (line,) = [line for line in out.splitlines() if line.startswith("what is kept")]
        assert f"images 15.0 KiB, labels none stored, 1 teacher {size(4 * WEIGHTS)}" in line
        fit = (IMAGES + 4 * WEIGHTS) // (3 * 16 * 16 * 10)
        assert line.endswith(f"as large as {10 * fit} real images, {fit} per class")


class TestWarnings:
    def test_they_stand_below_the_plan_with_their_keys(self, edc, project):
        status, out, err = edc("check", "tiny", "--set", "evaluate.seeds=0", "--set", "evaluate.ema=0.999")
        lines = [line for line in out.splitlines() if line.startswith("warning: ")]
        assert (status, err, [line.split()[1] for line in lines]) == (0, "", ["evaluate.seeds", "evaluate.ema"])
        assert "capped at 1 - 10/updates = 0.975" in lines[1]

    def test_they_stand_in_the_facts(self, edc, project):
        (found,) = checked(edc, "evaluate.select=best_on_test")["warnings"]
        assert found["key"] == "evaluate.select" and "2505.13300" in found["text"]

    def test_a_sound_project_has_none(self, edc, project):
        assert checked(edc)["warnings"] == []
        assert "warning" not in edc("check", "tiny")[1]

    def test_the_time_that_past_runs_took_counts(self, edc, project, monkeypatch):
        from engine.commands import cautions

        monkeypatch.setattr(cautions, "step_times", lambda plan, steps, projects: {"one": 3600.0, "another": 3600.0})
        assert [found["key"] for found in checked(edc)["warnings"]] == ["compute.device"]

"""The images that synthesis lets people look at while they form."""

import pytest
import torch
from small_runs import flat_settings, small_inputs_of, small_store, stopping_report

from engine.data.condensed import read_condensed
from engine.errors import RunError, Stopped
from engine.stages import synthesise as room
from engine.stages.initialise import initialise
from engine.stages.report import Report
from engine.stages.saving import PREVIEW
from engine.stages.synthesise import synthesise

ITERATIONS = 3


@pytest.fixture
def inputs(squeezed, tmp_path):
    """Inputs of a synthesis of eight images in two batches, with one observer and its table."""
    inputs = small_inputs_of(small_store())
    initialise(
        {"source": "real", "seed": 0, "ipc": 2, "replacement": "never", "flip": False, "shuffle_patches": 0, "save": None},
        inputs, tmp_path / "start", Report(),
    )  # fmt: skip
    folder = squeezed("convnet-d2-w16-bn")
    inputs.folders |= {"images": (tmp_path / "start",), "observers": (folder,), "tables": (folder,)}
    return inputs


@pytest.fixture
def looks(monkeypatch):
    """Look after every iteration; gives what each look found."""
    monkeypatch.setattr(room, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(room, "PREVIEW_SHARE", 0.0)
    found = []
    save = room.save_preview

    def save_and_look(folder, *arguments, **facts):
        save(folder, *arguments, **facts)
        found.append(read_condensed(folder / PREVIEW))

    monkeypatch.setattr(room, "save_preview", save_and_look)
    return found


def settings():
    return flat_settings(condense__ipc=2, synthesise__iterations=ITERATIONS, batch__size=4, compute__precision="float32")


def test_images_can_be_looked_at_after_each_iteration_of_each_batch(inputs, looks, tmp_path):
    synthesise(settings(), inputs, tmp_path, Report())
    assert [look.metadata for look in looks] == [{"iteration": count, "iterations": 2 * ITERATIONS} for count in range(1, 7)]
    start, final = read_condensed(tmp_path / "start"), read_condensed(tmp_path)
    for look in looks[: ITERATIONS - 1]:
        assert not torch.equal(look.images[:4], start.images[:4]) and not torch.equal(look.images[:4], final.images[:4])
        assert torch.equal(look.images[4:], start.images[4:]), "the second batch has not begun"
    assert torch.equal(looks[ITERATIONS].images[:4], final.images[:4]), "the first batch is finished"
    assert torch.equal(looks[-1].images, final.images) and looks[-1].classes.names == final.classes.names


def test_nothing_of_it_is_left_when_the_images_are_finished(inputs, looks, tmp_path):
    synthesise(settings(), inputs, tmp_path, Report())
    assert looks and sorted(path.name for path in tmp_path.iterdir()) == ["contact-sheet.png", "images.safetensors", "start"]


def test_images_are_the_same_whether_or_not_anyone_looked(inputs, looks, tmp_path, monkeypatch):
    synthesise(settings(), inputs, tmp_path / "seen", Report())
    monkeypatch.setattr(room, "PREVIEW_SECONDS", 1e9)
    synthesise(settings(), inputs, tmp_path / "unseen", Report())
    assert len(looks) == 2 * ITERATIONS
    assert (tmp_path / "seen" / "images.safetensors").read_bytes() == (tmp_path / "unseen" / "images.safetensors").read_bytes()


def test_a_resumed_run_shows_what_was_finished_before(inputs, looks, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        synthesise(settings(), inputs, folder, stopping_report(4))
    assert (folder / PREVIEW).exists(), "a stopped run keeps its images for people"
    looked = len(looks)
    synthesise(settings(), inputs, folder, Report())
    assert ITERATIONS < looked < 2 * ITERATIONS and len(looks) == 2 * ITERATIONS
    assert torch.equal(looks[looked].images[:4], read_condensed(folder).images[:4])


def test_a_full_disk_ends_the_looking_but_not_the_run(inputs, tmp_path, monkeypatch):
    tried, said = [], []

    def full(*arguments, **facts):
        tried.append(facts["iteration"])
        raise RunError("cannot write preview.safetensors: No space left on device")

    monkeypatch.setattr(room, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(room, "save_preview", full)
    synthesise(settings(), inputs, tmp_path, Report(on_log=lambda text, level: said.append((text, level))))
    assert len(read_condensed(tmp_path)) == 8 and tried == [1]
    assert [level for _, level in said] == ["warning"] and "No space left" in said[0][0]

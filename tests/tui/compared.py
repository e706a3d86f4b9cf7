"""Runs to compare, for the tests of the screen: resolved projects with results, made of the real files and without torch."""

import tomlkit
from app_driver import write_metrics

from engine.files import write_json
from engine.project.resolve import resolve
from engine.runs.store import create_run

STUDENTS = ("resnet18", "convnet-w128")


def result(student, set_name, values, seeds=(0, 1, 2)):
    """A row of a summary's results, top-1 in percent by training seed."""
    mean = sum(values) / len(values)
    return {"set": set_name, "student": student, "seeds": list(seeds), "top1": {"mean": mean, "std": None, "values": list(values)}}


def compared_run(projects, name, top1, *, random=None, seconds=60.0, student_results=None, losses=(), accuracies=(), **settings):
    """Make a finished run on CIFAR-10 with 10 images per class: `top1` by seed of resnet18, `settings` written `section__key=value`.

    `losses` are those of the images, iteration by iteration; `accuracies` of resnet18 by seed, epoch by epoch.
    """
    given = {"dataset.name": "cifar10", "condense.ipc": 10, "condense.method": "edc", "evaluate.students": list(STUDENTS)}
    given |= {key.replace("__", "."): value for key, value in settings.items()}
    resolved, problems = resolve(given, resolution=32)
    assert problems == []
    values = resolved.project.model_dump(exclude_none=True) | {"frozen": {"device": "cpu", "precision": "float32", "resolution": 32}}
    run = create_run(projects, name, tomlkit.dumps(values))
    results = [result("resnet18", "condensed", top1)]
    results += [result("resnet18", "random", random)] if random else []
    results += [result(student, "condensed", percents) for student, percents in (student_results or {}).items()]
    stages = {"synthesise": {"status": "done", "seconds": seconds, "peak_memory_bytes": 2**20}}
    condensed = {"images": 100, "image_bytes": 307200, "label_bytes": 1000}
    summary = {"schema": 1, "run": run.id, "project": name, "status": "done", "stages": stages, "condensed": condensed, "results": results}
    write_json(run.summary, summary)
    write_json(run.exit, {"t": 0.0, "pid": 1, "returncode": 0, "signal": None, "last_lines": [], "message": None})
    if losses:
        rows = [(step, {"loss": value, "matching": value, "classification": 0.1}) for step, value in enumerate(losses, start=1)]
        write_metrics(folder(run, "synthesise", "condensed"), rows)
    for seed, percents in enumerate(accuracies):
        rows = [(epoch, {"top1": value, "loss": 1.0}) for epoch, value in enumerate(percents, start=1)]
        write_metrics(folder(run, "evaluate", f"condensed-resnet18-seed{seed}"), rows)
    return run


def folder(run, stage, step):
    """The folder of a step, made if need be."""
    from engine.project.plan import STAGES

    path = run.stage_folder(STAGES.index(stage) + 1, stage, step)
    path.mkdir(parents=True, exist_ok=True)
    return path

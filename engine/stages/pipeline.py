"""Runs a plan: takes finished steps from the run or the cache, computes the others, and keeps the summary true."""

import math
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import RunError, Stopped
from engine.files import write_text
from engine.project.plan import Plan, Step
from engine.runs.events import EventLog, MetricsWriter
from engine.runs.layout import Run, read_object
from engine.stages import cache as stage_cache
from engine.stages.summary import Summary

if TYPE_CHECKING:
    from engine.stages.inputs import Inputs

BEGUN = ".fingerprint"  # in the folder of a step at work: for which fingerprint it was begun
WORKED = ".seconds"  # what the attempts up to the checkpoint have taken that the next one goes on from


class Pipeline:
    """One run of one plan; torch is loaded with the first step that must be computed."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        cache: Path,
        events: EventLog,
        *,
        stop_wanted: Callable[[], bool],
        on_progress: Callable[[str, str, int, int, str], None],
        fresh: bool = False,
    ) -> None:
        """`on_progress(stage, step, done, total, unit)` hears of every advance; `fresh` computes steps that the cache holds."""
        self.plan, self.run, self.cache, self.events = plan, run, cache, events
        self.stop_wanted, self.on_progress, self.fresh = stop_wanted, on_progress, fresh
        self.summary = Summary(plan, run)
        self._inputs: Inputs | None = None

    def execute(self) -> None:
        """Bring every step of the plan into the run's folder, in order.

        Raises Stopped when asked to stop, RunError when a step fails; the summary tells what is finished either way.
        """
        if read_object(self.run.summary)[0] is None:  # what an earlier attempt has found stays to be seen until there is more
            self.summary.write("running")
        for step in self.plan.steps:
            self._bring(step)
        self.summary.write("done")

    def folder(self, step: Step) -> Path:
        """Return the step's folder in the run."""
        return self.run.stages / step.folder

    def _bring(self, step: Step) -> None:
        """Take a step from the run, else from the cache, else compute it."""
        folder = self.folder(step)
        done = stage_cache.finished(folder, step)
        if done is not None:
            self._take_up(step, folder, done)
            return
        if not self.fresh and self._reuse(step, folder):
            return
        with stage_cache.claimed(
            step, self.cache, stop_wanted=self.stop_wanted, on_wait=lambda: self._say(f"{step.id}: another run computes it, waiting")
        ):
            if not self.fresh and self._reuse(step, folder):  # the other run may have finished it while this one waited
                return
            self._compute(step, folder)

    def _take_up(self, step: Step, folder: Path, done: dict[str, Any]) -> None:
        """Count a step that an earlier attempt has finished, and do what a kill right after its end may have left undone."""
        if (folder / BEGUN).exists():
            self._say_finished(step, done)
            self._remove_leftovers(folder)
        if not (self.cache / step.stage / step.fingerprint / "done.json").exists():
            with suppress(Stopped, RunError), stage_cache.claimed_at_once(step, self.cache):
                stage_cache.publish(folder, step, done, self.cache)
        self.summary.finished(step, done, reused=stage_cache.was_reused(folder))

    def _reuse(self, step: Step, folder: Path) -> bool:
        """Link the step from the cache if it is there."""
        done = stage_cache.reuse(folder, step, self.cache)
        if done is None:
            return False
        self.events.append("stage_reused", stage=step.stage, step=step.name, fingerprint=step.fingerprint)
        self.summary.finished(step, done, reused=True)
        return True

    def _compute(self, step: Step, folder: Path) -> None:
        """Run the stage's function for a step and record its result."""
        self._prepare(folder, step)
        self.events.append(
            "stage_started", stage=step.stage, step=step.name, folder=str(folder.relative_to(self.run.folder)), fingerprint=step.fingerprint
        )
        self.summary.running(step)
        self.on_progress(step.stage, step.name, 0, 0, "")
        from engine.compute.precision import peak_memory_bytes, reset_peak_memory
        from engine.stages import stage_function
        from engine.stages.report import Report

        inputs = self._inputs_for(step)
        reset_peak_memory(self.plan.device)
        worked = folder / WORKED
        before = _seconds_in(worked)
        started = time.monotonic()
        with MetricsWriter(folder / "metrics.jsonl") as metrics:
            report = Report(
                on_metrics=metrics.write,
                on_progress=lambda done, total, unit: self.on_progress(step.stage, step.name, done, total, unit),
                on_log=self._say,
                on_checkpoint=lambda: write_text(worked, str(before + time.monotonic() - started)),
                stop_wanted=self.stop_wanted,
                checkpoint_seconds=self.plan.project.compute.checkpoint_seconds,
            )
            try:
                result = stage_function(step.stage)(step.settings, inputs, folder, report)
            except OSError as error:
                raise RunError(f"{step.id}: {error.filename or folder}: {error.strerror or error}") from error
        seconds = before + time.monotonic() - started
        done = stage_cache.write_done(folder, step, result, seconds=seconds, peak_memory_bytes=peak_memory_bytes(self.plan.device))
        self._say_finished(step, done)
        self._remove_leftovers(folder)  # not before: a full disk must not cost the last checkpoint as well
        stage_cache.publish(folder, step, done, self.cache)
        self.summary.finished(step, done, computed=True)

    def _prepare(self, folder: Path, step: Step) -> None:
        """Make the step's folder; what is finished but damaged, shared with the cache maybe, or of another fingerprint goes."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stage_cache.remove_abandoned(folder)
            mark = folder / BEGUN
            begun_for = mark.read_text() if mark.exists() else ""
            if (folder / "done.json").exists() or begun_for not in ("", step.fingerprint):
                shutil.rmtree(folder)
                folder.mkdir()
            elif begun_for == step.fingerprint:
                _remove(folder.rglob(".*.tmp"))
                return
            write_text(mark, step.fingerprint)
        except OSError as error:
            raise RunError(f"cannot write {folder}: {error.strerror or error}") from error

    def _remove_leftovers(self, folder: Path) -> None:
        """Delete the checkpoints of a finished step, and the mark of its beginning last."""
        checkpoints = [*folder.glob("checkpoint*.safetensors"), folder / "progress.json", folder / WORKED]
        _remove([*checkpoints, *folder.rglob(".*.tmp"), folder / BEGUN])

    def _inputs_for(self, step: Step) -> "Inputs":
        """Return the real images with the folders of the steps that this one reads."""
        from dataclasses import replace

        from engine.compute.precision import prepare_torch
        from engine.data.decode import prepare
        from engine.data.store import open_store
        from engine.stages.inputs import Inputs

        if self._inputs is None:
            prepare_torch(self.plan.device, self.plan.project.compute.threads)
            decoded = prepare(
                self.plan.source,
                self.cache,
                lambda done, total: self.on_progress("data", self.plan.source.name, done, total, "images"),
                self.plan.project.dataset.store,
            )
            self._inputs = Inputs(open_store(decoded), self.plan.device, self.plan.precision)
        folders = {role: tuple(self.folder(self.plan.step(step_id)) for step_id in ids) for role, ids in step.inputs.items()}
        return replace(self._inputs, folders=folders)

    def _say_finished(self, step: Step, done: dict[str, Any]) -> None:
        """Log the end of a step."""
        facts = {"seconds": done["seconds"], "peak_memory_bytes": done["peak_memory_bytes"]}
        self.events.append("stage_finished", stage=step.stage, step=step.name, **facts)

    def _say(self, text: str, level: str = "info") -> None:
        """Log a sentence."""
        self.events.append("log", level=level, text=text)


def _remove(paths: Iterable[Path]) -> None:
    """Delete files that are of no more use, as far as the folder can be written."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _seconds_in(path: Path) -> float:
    """Return the seconds that a file holds; 0 where it is missing or damaged."""
    try:
        seconds = float(path.read_text())
    except (OSError, ValueError):
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0

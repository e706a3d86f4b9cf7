"""A run's `summary.json`: the small file that a list, a comparison and the screen read."""

from typing import Any

from engine.files import write_json
from engine.project.evaluations import label_regime
from engine.project.plan import STAGES, Plan, Step, told
from engine.project.planner import estimated_bytes
from engine.project.protocols import HARD
from engine.runs.layout import Run
from engine.runs.results import alike, evaluation_place, set_place
from engine.runs.scores import scores
from engine.runs.spread import spread, written
from engine.runs.weights import WEIGHT_BYTES, weight_count

ACCURACIES = ("top1", "top5")
ROW = ("set", "student", "protocol", "labels", "augmentation")  # what a row of results is about


class Summary:
    """Collects what is finished and replaces `summary.json` after every step."""

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plan, self.run = plan, run
        self.done: dict[str, dict[str, Any]] = {}
        self.current: str | None = None
        self.reused: set[str] = set()
        self.weights: dict[str, int | None] = {}  # of label observers, read once

    def running(self, step: Step) -> None:
        """Note the step that is being computed."""
        self.current = step.id
        self.write("running")

    def finished(self, step: Step, done: dict[str, Any], *, reused: bool = False, computed: bool = False) -> None:
        """Note a finished step by its `done.json`; the file is replaced for those computed now, and for the last."""
        self.done[step.id] = done
        self.current = None
        if reused:
            self.reused.add(step.id)
        if computed or len(self.done) == len(self.plan.steps):
            self.write("running")

    def write(self, status: str) -> None:
        """Replace `summary.json`."""
        write_json(self.run.summary, self.content(status))

    def content(self, status: str) -> dict[str, Any]:
        """Return the summary as design.md's contract has it, with the single steps beside the stages."""
        project, results = self.plan.project, self._results()
        return {
            "schema": 1,
            "run": self.run.id,
            "project": self.run.project,
            "title": project.title,
            "status": status,
            "dataset": project.dataset.name,
            "method": project.condense.method,
            "ipc": project.condense.ipc,
            "seed": project.condense.seed,
            "device": self.plan.device,
            "precision": self.plan.precision,
            "stages": {stage: self._stage(stage) for stage in STAGES if self._steps(stage)},
            "steps": {step.id: self._step(step) for step in self.plan.steps},
            "condensed": self._condensed(),
            "bytes": self._bytes(),
            "observers": {step.name: self.done[step.id]["result"]["top1"] for step in self._steps("squeeze") if step.id in self.done},
            "select": project.evaluate.select,
            "results": results,
            "scores": scores(results),
        }

    def _steps(self, stage: str) -> list[Step]:
        """Return the plan's steps of a stage."""
        return [step for step in self.plan.steps if step.stage == stage]

    def _step(self, step: Step) -> dict[str, Any]:
        """Return one step's status, and its cost once it is finished."""
        done = self.done.get(step.id)
        if done is None:
            return {"status": "running" if step.id == self.current else "waiting", "folder": step.folder, **told(step)}
        return {
            "status": "done",
            "reused": step.id in self.reused,
            "seconds": done["seconds"],
            "peak_memory_bytes": done["peak_memory_bytes"],
            "folder": step.folder,
            **told(step),
        }

    def _stage(self, stage: str) -> dict[str, Any]:
        """Return a stage's status: seconds are what its steps took whenever they were computed, `reused` is true when none was now."""
        steps = self._steps(stage)
        finished = [self.done[step.id] for step in steps if step.id in self.done]
        running = any(step.id == self.current for step in steps)
        status = "done" if len(finished) == len(steps) else "running" if running or finished else "waiting"
        return {
            "status": status,
            "seconds": round(sum(done["seconds"] for done in finished), 3),
            "reused": bool(finished) and all(step.id in self.reused for step in steps if step.id in self.done),
            "peak_memory_bytes": max((done["peak_memory_bytes"] for done in finished), default=0),
            "steps": len(steps),
            "steps_done": len(finished),
        }

    def _condensed(self) -> dict[str, Any]:
        """Return number and bytes of the condensed images, the bytes of their stored labels, and where they lie in the run."""
        step = self.plan.condensed
        done = self.done.get(step.id) if step else None
        if step is None or done is None:
            return {}
        labels = self._kept_labels(done["result"])
        return {
            "images": done["result"]["images"],
            "image_bytes": done["result"]["image_bytes"],
            "label_bytes": labels.get("label_bytes", 0),
            "bytes_per_label": labels["label_bytes"] / labels["views"] if labels else 0,  # of an image in an epoch, or of an image
            "folder": f"stages/{step.folder}",
        }

    def _bytes(self) -> dict[str, Any]:
        """Return what the method's own evaluation needs to be kept, in bytes: images, soft labels, and the observers that label online.

        What is not made yet is None, as is in `estimate`, which the plan tells beforehand, what only building a network would tell.
        """
        project, source = self.plan.project, self.plan.source
        step, regime = self.plan.condensed, label_regime(project)
        made = self.done[step.id]["result"] if step and step.id in self.done else {}
        return {
            "images": made.get("image_bytes"),
            "labels": 0 if regime in ("online", HARD) else self._kept_labels(made).get("label_bytes"),
            "teachers": self._teacher_bytes() if regime == "online" else 0,
            "estimate": estimated_bytes(project, len(source.classes), source.resolution),
        }

    def _kept_labels(self, made: dict[str, Any]) -> dict[str, Any]:
        """Return `label_bytes` and `views` of the labels kept for the condensed images, whose step has `made` them; {} without any."""
        if self.plan.project.labels.mode == "given":
            return {"label_bytes": made["label_bytes"], "views": made["images"]} if made else {}
        return self.done.get("relabel/condensed", {}).get("result", {})

    def _teacher_bytes(self) -> int | None:
        """Return the bytes of the label observers' weights, None while one is not squeezed."""
        counts = []
        for name in self.plan.project.observers.labels:
            step = next((step for step in self._steps("squeeze") if step.name == name and step.id in self.done), None)
            if step is None:
                return None
            if name not in self.weights:
                self.weights[name] = weight_count(self.run.stages / step.folder / "observer.safetensors")
            counts.append(self.weights[name])
        return None if None in counts else WEIGHT_BYTES * sum(counts)

    def _results(self) -> list[dict[str, Any]]:
        """Return one row for each set, student and evaluation: mean and deviation (ddof 1) over the seeds finished so far, in percent.

        Every set but the whole dataset has its gain over random real images under the same labels and recipe in `over_random`.
        """
        rows: dict[tuple[Any, ...], list[Step]] = {}
        for step in self._steps("evaluate"):
            if step.id in self.done and "search" not in step.facts:
                rows.setdefault(tuple(step.facts[name] for name in ROW), []).append(step)
        results = [self._result(dict(zip(ROW, key, strict=True)), steps) for key, steps in rows.items()]
        for row in results:
            control = next((other for other in results if alike(row, other) and other["set"] == "random"), None)
            if row["set"] not in ("random", "full") and control is not None:
                row["over_random"] = paired_difference(row, control)
        return sorted(results, key=lambda row: (row["student"], evaluation_place(row), set_place(row["set"])))

    def _result(self, row: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
        """Return what the trainings of one row have measured."""
        trainings = [self.done[step.id]["result"] for step in steps]
        headline = "best_on_test" if self.plan.project.evaluate.select == "best_on_test" else "final"
        row |= {"seeds": [step.facts["seed"] for step in steps], "images": trainings[0].get("images"), "updates": trainings[0]["updates"]}
        if "learning_rate" in trainings[0]:
            row["learning_rate"] = trainings[0]["learning_rate"]
        for name in ACCURACIES:
            if name in trainings[0]["final"]:
                row[name] = spread_facts([one[headline][name] for one in trainings])
        row["best_on_test"] = spread_facts([one["best_on_test"]["top1"] for one in trainings])
        return row


def spread_facts(values: list[float]) -> dict[str, Any]:
    """Return mean, deviation (ddof 1; null for a single value), number and the values themselves."""
    return {**spread(values).as_json(), "values": written(values)}


def paired_difference(row: dict[str, Any], control: dict[str, Any]) -> dict[str, Any] | None:
    """Return mean and deviation of the differences in top-1 between two result rows, seed by seed; None when they share no seed."""
    of_control = dict(zip(control["seeds"], control["top1"]["values"], strict=True))
    pairs = zip(row["seeds"], row["top1"]["values"], strict=True)
    differences = [value - of_control[seed] for seed, value in pairs if seed in of_control]
    return spread_facts(differences) if differences else None

"""Which charts a stage has, and which lines are on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edc_tui.curves import CurveFile, Series
from edc_tui.widgets.chart import Line
from engine.runs.results import STEP
from engine.runs.text import printable

X_NAMES = {"squeeze": "steps", "synthesise": "iterations", "evaluate": "epochs"}
# Title of a chart, and the metrics on it by their names on the chart; metrics that are not listed get a chart of their own.
GROUPS: dict[str, dict[str, dict[str, str]]] = {
    "squeeze": {"training loss": {"loss": ""}},
    "synthesise": {
        "matching loss": {"matching": "sum", "matching_global": "global", "matching_class": "class"},
        "classification loss": {"classification": ""},
        "whole loss": {"loss": ""},
    },
    "evaluate": {"top-1 accuracy": {"top1": ""}, "training loss": {"loss": ""}, "top-5 accuracy": {"top5": ""}},
}
PERCENT = ("top1", "top5")


@dataclass(frozen=True)
class ChartPlan:
    """A chart: title, lines, the unit of its values, and the value they never exceed, if there is one."""

    title: str
    lines: tuple[Line, ...]
    unit: str = ""
    top: float | None = None


def charts_of(stage: str, curves: Mapping[str, CurveFile]) -> list[ChartPlan]:
    """Return the charts of a stage: those it always has, also while they are empty, then one for each other metric there is."""
    groups = dict(GROUPS.get(stage, {}))
    grouped = {metric for group in groups.values() for metric in group}
    others = dict.fromkeys(metric for curve in curves.values() for metric in list(curve.series) if metric not in grouped)
    groups |= {printable(metric, 40): {metric: ""} for metric in others}
    names = step_names(list(curves))
    return [_plan(title, metrics, curves, names) for title, metrics in groups.items()]


def _plan(title: str, metrics: Mapping[str, str], curves: Mapping[str, CurveFile], names: Mapping[str, str]) -> ChartPlan:
    percent = all(metric in PERCENT for metric in metrics)
    lines = []
    for step, curve in curves.items():
        for metric, label in metrics.items():
            name = " ".join(part for part in (names[step] if len(curves) > 1 else "", label) if part) or title
            lines.append(Line(name, curve.series.get(metric) or Series()))
    return ChartPlan(title, tuple(lines), "%" if percent else "", 100.0 if percent else None)


def step_names(steps: Sequence[str]) -> dict[str, str]:
    """Return short names that still tell steps apart: `condensed-resnet18-seed0` is `condensed s0` where there is one student only."""
    parts = {step: _parts(step) for step in steps}
    found = [part for part in parts.values() if part is not None]
    if len(found) != len(steps) or len(steps) < 2:
        return {step: printable(step) for step in steps}
    shown = [len({part[index] for part in found}) > 1 for index in range(4)]
    names = {
        step: " ".join(printable(part[index]) for index in range(4) if shown[index] and part[index]) for step, part in parts.items() if part
    }
    return names if len(set(names.values())) == len(names) else {step: printable(step) for step in steps}


def _parts(step: str) -> tuple[str, str, str, str] | None:
    """Split the name of an evaluation's step: what is trained on, the student, the seed as `s0`, and what tells its evaluation."""
    found = STEP.fullmatch(step)
    return (found[1], found[2], f"s{found[3]}", (found[4] or "").replace("-", " ").strip()) if found else None

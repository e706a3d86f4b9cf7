"""Every method and every control on one dataset: both protocols, hard and soft labels, from one squeeze; a table for each IPC.

    python tests/bench/evaluation.py                              sre2l cda rded g-vbsm edc at 1, 10 and 50 images per class
    python tests/bench/evaluation.py --ipc 10 --only edc rded     some of it
    python tests/bench/evaluation.py --common-epochs 400          the common protocol at its full length

It writes one project for each method and IPC into the work folder and runs them through `edc run`, one after the other; started again,
it goes on where it was. Dataset, observers, squeeze and students are those of the project given with `--project`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compare_methods import ROOT, STOPPED, Entry, Options, base_values, finished_run, project_text, resolved_of, run_project, table

from engine.commands.request import make_request
from engine.commands.tables import percent
from engine.errors import RunError, UserError
from engine.files import read_json
from engine.project.checks import has_effect
from engine.project.files import parse_override
from engine.project.protocols import HARD, SETS
from engine.stages.summary import paired_difference

METHODS = ("sre2l", "cda", "rded", "g-vbsm", "edc")
HOST = "edc"  # whose projects hold the controls
CONTROLS = ["random", "noise", "initial", "easy", "medium", "herding", "k-center", "equal-bytes", "full", "full-soft"]
SEEDS = {1: [0, 1, 2, 3, 4]}  # more where images are so few that their choice matters
USUAL_SEEDS = [0, 1, 2]
COLUMNS = (("published", False), ("published", True), ("common", False), ("common", True))  # protocol, hard labels


def project_values(method: str, ipc: int, base: Mapping[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    """Return the flat values of a method's project, without those that have no effect in it."""
    values = dict(base) | {
        "condense.method": method,
        "condense.ipc": ipc,
        "evaluate.protocol": "both",
        "evaluate.common_epochs": asked.common_epochs,
        "evaluate.common_teacher": asked.common_teacher,
        "evaluate.seeds": SEEDS.get(ipc, USUAL_SEEDS),
        "evaluate.controls": asked.controls if method == HOST else ["random"],
    }
    values |= dict(parse_override(item) for item in asked.set)
    resolved = resolved_of({name: value for name, value in values.items() if name != "evaluate.epochs"}).project
    values["evaluate.epochs"] = min(asked.epochs or resolved.evaluate.epochs, resolved.evaluate.epochs)
    if asked.iterations and resolved.synthesise.enabled and resolved.synthesise.iterations > asked.iterations:
        values["synthesise.iterations"] = asked.iterations
    return {name: value for name, value in values.items() if has_effect(resolved, name)}


def row_cells(summary: Mapping[str, Any], set_name: str) -> list[str]:
    """Return a set's accuracies in the order of COLUMNS, each followed by its paired difference to random real images."""
    cells = []
    for protocol, hard in COLUMNS:
        rows = {
            row["set"]: row
            for row in summary["results"]
            if row["protocol"] == protocol and (row["labels"] == HARD) == hard and row["augmentation"]
        }
        row, random = rows.get(set_name), rows.get("random")
        difference = paired_difference(row, random) if row and random and set_name not in ("random", "full") else None
        cells += [percent(row["top1"]) if row else "", percent(difference, signed=True)]
    return cells


def ipc_table(summaries: Mapping[str, Mapping[str, Any]], *, markdown: bool) -> str:
    """Return the table of one IPC: the methods, each beside random images under its own recipe, then the controls under EDC's."""
    header = ["trained on", "", *(part for protocol, hard in COLUMNS for part in (f"{protocol}, {'hard' if hard else 'soft'}", "- random"))]
    lines = []
    for method, summary in summaries.items():
        lines.append([method, "", *row_cells(summary, "condensed")])
        lines.append(["", "random, its recipe", *row_cells(summary, "random")])
    if HOST in summaries:
        found = {row["set"] for row in summaries[HOST]["results"]} - {"condensed", "random"}
        lines += [[name, "control", *row_cells(summaries[HOST], name)] for name in SETS if name in found]
    return table(header, lines, markdown=markdown, left=2)


def facts_line(summary: Mapping[str, Any]) -> str:
    """Say under which conditions a table was made."""
    updates = {row["labels"] + ", " + row["protocol"]: row["updates"] for row in summary["results"] if row["set"] == "condensed"}
    observers = ", ".join(f"{name} {accuracy:.1f} %" for name, accuracy in summary["observers"].items())
    counts = ", ".join(f"{count} ({name})" for name, count in updates.items())
    where = f"{summary['dataset']}, {summary['ipc']} images per class, {summary['device']} {summary['precision']}"
    return f"{where}; {observers}; updates {counts}"


def run_all(asked: argparse.Namespace) -> tuple[dict[int, dict[str, dict[str, Any]]], int]:
    """Write and run the projects one after the other; return the summaries by IPC and method, and the exit status."""
    base = base_values(asked.project.absolute(), Options())
    base = {name: value for name, value in base.items() if name not in ("evaluate.epochs", "condense.ipc", "evaluate.seeds")}
    work = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    found: dict[int, dict[str, dict[str, Any]]] = {}
    status = 0
    for ipc in asked.ipc:
        for method in asked.only or METHODS:
            path = work / f"{method}-ipc{ipc}.toml"
            path.write_text(project_text(Entry(f"{method}, {ipc} images per class", method), project_values(method, ipc, base, asked)))
            fingerprint = make_request(path).plan.fingerprint
            if finished_run(work, path.stem, fingerprint) is None:
                print(f"\n{path.stem}", flush=True)
                ended = run_project(path)
                status = status or ended
                if ended == STOPPED:
                    return found, status
            if (run := finished_run(work, path.stem, fingerprint)) is not None:
                found.setdefault(ipc, {})[method] = read_json(run.summary)
    return found, status


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-evaluation", help="where projects and runs go (%(default)s)")
    recipe = ROOT / "projects" / "fashion-mnist-edc-ipc10.toml"
    parser.add_argument("--project", type=Path, default=recipe, help="whose data, observers and students (%(default)s)")
    parser.add_argument("--ipc", type=lambda text: [int(part) for part in text.split(",")], default=[1, 10, 50], metavar="N,N,…")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=[], help="only these methods")
    parser.add_argument("--epochs", type=int, default=0, help="most epochs of a method's own protocol; 0 for its own number")
    parser.add_argument("--common-epochs", type=int, default=400, help="epochs of the common protocol (%(default)s)")
    parser.add_argument("--common-teacher", default="resnet18-w16", help="teacher of the common protocol (%(default)s)")
    parser.add_argument("--iterations", type=int, default=0, help="most iterations of a synthesis; 0 for the methods' own")
    parser.add_argument("--controls", nargs="+", choices=CONTROLS, default=CONTROLS, help="which controls (all)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a value for all projects")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser.parse_args(given)


def main() -> int:
    """Run what the command line asks for and print the tables; the exit status is that of `edc run`."""
    asked = arguments()
    try:
        found, status = run_all(asked)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except RunError as error:
        print(error, file=sys.stderr)
        return 1
    for ipc, summaries in found.items():
        told = facts_line(next(iter(summaries.values())))
        print(f"\n{ipc} images per class\n\n{ipc_table(summaries, markdown=asked.markdown)}\n\n{told}")
    return status


if __name__ == "__main__":
    sys.exit(main())

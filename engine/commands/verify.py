"""`edc verify`: is something wrong with a run's number?"""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from engine.commands.progress import task
from engine.commands.tables import GAP, count, make_console, print_json
from engine.runs.compare import read_facts
from engine.runs.findings import FINE, LOOK, WRONG, Finding
from engine.runs.layout import Run
from engine.runs.store import read_run_toml
from engine.runs.text import printable
from engine.runs.verify import findings

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {FINE: "green", LOOK: "yellow", WRONG: "bold red"}


def verify_command(run: Run, *, as_json: bool) -> int:
    """Print the findings about a run, finished or not; return 0 when nothing is wrong, 1 when something is."""
    facts, content = read_facts(run), read_run_toml(run)
    with task(f"measuring the observers of {run.id} again", unit="observers", stderr=as_json) as progress:
        from engine.stages.verify import measure_run

        measured = measure_run(run, content, progress)
    found = findings(run, facts, measured)
    wrong = [finding for finding in found if finding.verdict == WRONG]
    if as_json:
        verdict = WRONG if wrong else LOOK if any(finding.verdict == LOOK for finding in found) else FINE
        print_json({"schema": 1, "run": run.id, "project": run.project, "verdict": verdict, "findings": [asdict(one) for one in found]})
    else:
        print_findings(make_console(), run, found)
    return 1 if wrong else 0


def print_findings(console: "Console", run: Run, found: Sequence[Finding]) -> None:
    """Print a line for each finding, and below those that are not fine why they matter; then how many there are of each verdict."""
    from rich.text import Text

    console.print(Text.assemble((printable(run.project), "bold"), "  ", (printable(run.id), "dim")))
    console.print()
    verdicts, checks = max(map(len, STYLES)), max(len(finding.check) for finding in found)
    indent = verdicts + checks + 2 * GAP
    narrow = indent > console.width // 2  # then what was measured stands below its check
    for finding in found:
        head = Text.assemble((f"{finding.verdict:<{verdicts}}", STYLES[finding.verdict]), " " * GAP, printable(finding.check))
        below = verdicts + GAP if narrow else indent
        lines = [Text(line) for line in _wrapped(finding.measured, console.width - below)]
        lines += [Text(line, "dim") for line in _wrapped(finding.why, console.width - below)] if finding.verdict != FINE else []
        if narrow:
            console.print(head, soft_wrap=True)
        elif lines:
            head.pad_right(indent - head.cell_len)
            lines[0] = head.append_text(lines[0])
        for number, line in enumerate(lines):
            console.print(line if number == 0 and not narrow else Text(" " * below).append_text(line), soft_wrap=True)
    console.print()
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in (WRONG, LOOK)}
    if counts[WRONG]:
        console.print(Text(f"{count(counts[WRONG], 'finding')} wrong, {counts[LOOK]} worth a look", STYLES[WRONG]))
    else:
        console.print(f"nothing is wrong, {counts[LOOK] or 'nothing'} worth a look")


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text between words, but never before its per cent signs."""
    bound = printable(text).replace(" %", "\xa0%")
    return [line.replace("\xa0", " ") for line in textwrap.wrap(bound, width=max(width, 20), break_on_hyphens=False)]

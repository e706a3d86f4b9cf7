"""What `edc bench` measured, as tables: for the terminal, and as Markdown between two marks of the README."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.commands.tables import Column, size
from engine.errors import UserError

BEGIN, END = "<!-- edc bench -->", "<!-- /edc bench -->"
HEADERS = ("stage", "network", "precision", "batch", "bare", "with all", "ratio", "spread", "at most", "met", "images/s", "of peak")
COLUMNS = [
    Column("stage"),
    Column("network"),
    Column("precision"),
    Column("batch", "right"),
    Column("bare", "right", drop=3),
    Column("with all", "right", drop=2),
    Column("ratio", "right"),
    Column("spread", "right", drop=1),
    Column("at most", "right"),
    Column("met"),
    Column("images/s", "right", drop=4),
    Column("of peak", "right", drop=5),
]


def rows_of(found: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of `HEADERS` for each ratio, memory and the warm start, in this order."""
    rows = [_ratio_row(case) for case in found.get("cases", [])]
    rows += [_memory_row(case) for case in found.get("memory", [])]
    if start := found.get("warm_start"):
        spread = f"{min(start['seconds']):.1f}-{max(start['seconds']):.1f} s"
        row = ["warm start", "to the first update", "", "", "", f"{start['median']:.1f} s", "", spread, f"{start['limit']:g} s"]
        rows.append([*row, _met(start), "", ""])
    return rows


def _ratio_row(case: Mapping[str, Any]) -> list[str]:
    share = f"{100 * case['share_of_peak']:.0f} %" if "share_of_peak" in case else ""
    return [
        *_what(case),
        milliseconds(case["bare"]),
        milliseconds(case["real"]),
        f"{case['ratio']:.2f}",
        f"{case['ratio_low']:.2f}-{case['ratio_high']:.2f}",
        f"{case['limit']:.2f}",
        _met(case),
        f"{case['images_per_second']:,.0f}",
        share,
    ]


def _memory_row(case: Mapping[str, Any]) -> list[str]:
    stage, *what = _what(case)
    sizes = [size(case["bare_bytes"]), size(case["real_bytes"])]
    return [f"memory of {stage}", *what, *sizes, f"{case['ratio']:.2f}", "", f"{case['limit']:.2f}", _met(case), "", ""]


def _what(case: Mapping[str, Any]) -> list[str]:
    return [f"{case['stage']} {case['variant']}".strip(), case["network"], case["precision"], str(case["batch"])]


def _met(facts: Mapping[str, Any]) -> str:
    return "yes" if facts["met"] else "no"


def milliseconds(value: float) -> str:
    """Say a short time: `0.42 ms`, `12.3 ms`, `340 ms`, `2.71 s`."""
    if value >= 1:
        return f"{value:.2f} s"
    value *= 1000
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def precision_lines(found: Mapping[str, Any]) -> list[str]:
    """Say for each network what precision and memory format `auto` takes, and whether it is the fastest."""
    lines = []
    for one in found.get("precision", []):
        seconds, auto, fastest = one["seconds"], one["auto"], one["fastest"]
        others = ", ".join(f"{name} {milliseconds(taken)}" for name, taken in sorted(seconds.items(), key=lambda pair: pair[1]))
        verdict = "which is right" if one["right"] else f"but {fastest} is {seconds[auto] / seconds[fastest]:.2f} times as fast"
        lines.append(f"{one['model']}: auto takes {auto}, {verdict} ({others})")
    return lines


def heading(found: Mapping[str, Any]) -> str:
    """Say in one line on what was measured."""
    threads = found["threads"]
    of_threads = f", {threads} thread{'' if threads == 1 else 's'}" if found["device"] == "cpu" else ""
    return f"{found['device_name']}{of_threads}, torch {found['torch']}, median of {found['rounds']} rounds in turn"


def markdown(found: Mapping[str, Any]) -> str:
    """Return the table in Markdown with its heading, between the marks; the same figures give the same text."""
    rows = rows_of(found)
    used = [index for index in range(len(HEADERS)) if any(row[index] for row in rows)]
    lines = [BEGIN, f"Measured by `edc bench` on {heading(found)}:", "", _line([HEADERS[index] for index in used])]
    lines += [_line(["---"] * len(used)), *(_line([row[index] for index in used]) for row in rows), ""]
    lines += [f"- {line}" for line in precision_lines(found)]
    return "\n".join([*lines, END])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def replaced(text: str, table: str) -> str:
    """Return a document with what stands between its marks replaced; raises UserError when it has not exactly one pair of them."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"--write: the file must have {BEGIN} and below it {END}, once each")
    before, _, rest = text.partition(BEGIN)
    return before + table + rest.partition(END)[2]

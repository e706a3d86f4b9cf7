"""`edc-tui`: what can be said on its command line, and what it says when it ends."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from engine.errors import RunError, UserError

if TYPE_CHECKING:
    from edc_tui.app import EdcApp

WRONG = 2
THEMES_SHOWN = 6


class _Arguments(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (`edc-tui --help` tells what there is)")


def main() -> None:
    """Run the app; wrong use becomes one line on standard error and exit status 2."""
    try:
        status = run(sys.argv[1:])
    except UserError as error:
        print(f"edc-tui: {error}", file=sys.stderr)
        status = WRONG
    except RunError as error:
        print(f"edc-tui: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


def run(words: list[str]) -> int:
    """Run the app with these words of a command line and return the exit status; raises UserError for wrong use."""
    parser = _Arguments(
        prog="edc-tui",
        description="Dataset condensation in the terminal: choose, start, watch and compare runs. Runs go on when it ends.",
        allow_abbrev=False,
    )
    parser.add_argument("--projects", metavar="DIR", type=Path, help="the projects folder; else $EDC_PROJECTS, else ./projects")
    parser.add_argument("--slow-link", action="store_true", help="for slow connections: the terminal's own colours, news every two seconds")
    parser.add_argument("--theme", metavar="NAME", help="colours for this time: edc-dark, edc-light, ansi-dark, ansi-light, nord …")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    options = parser.parse_args(words)
    if options.version:
        import importlib.metadata

        print(f"edc-tui {importlib.metadata.version('edc-tui')}")
        return 0
    from engine.runs.store import find_projects_folder

    projects = find_projects_folder(options.projects, must_exist=options.projects is not None)
    _need_terminal()
    return _show(projects, slow_link=options.slow_link, theme=options.theme)


def _need_terminal() -> None:
    """Raise UserError where nothing can be drawn."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("needs a terminal; `edc list`, `edc show` and `edc tail` print plain lines")
    if os.environ.get("TERM", "") in ("", "dumb"):
        raise UserError(f"TERM is {os.environ.get('TERM', '')!r}, a terminal that cannot place text; try TERM=xterm-256color")


def _show(projects: Path, *, slow_link: bool, theme: str | None) -> int:
    """Show the app until it is left, and say which runs go on."""
    from edc_tui.app import EdcApp
    from edc_tui.hangup import ending_on_hangup

    app = EdcApp(projects, slow_link=slow_link)
    if theme is not None:
        _choose_theme(app, theme)
    with ending_on_hangup(app.leave_soon, terminal=sys.__stdout__.fileno()):
        app.run()
    if app.return_code:
        return 1
    for line in farewell(app):
        print(line)
    return 0


def _choose_theme(app: "EdcApp", name: str) -> None:
    """Take a theme by its name; raises UserError naming the nearest when there is none."""
    import difflib

    themes = sorted(app.available_themes)
    if name not in themes:
        near = difflib.get_close_matches(name, themes, n=1, cutoff=0.5)
        raise UserError(f"--theme: no theme is called {name!r}; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(themes)}")
    app.theme = name


def farewell(app: "EdcApp") -> list[str]:
    """Return what to say at the end: which runs continue, and how to watch one from here."""
    from engine.runs.store import find_projects_folder
    from engine.runs.text import printable

    alive = [listing.run for listing in app.listings if listing.status.alive]
    if not alive:
        return []
    first = alive[0]
    here = find_projects_folder() == app.projects
    name = printable(first.id if here else first.folder)
    return [f"{len(alive)} run{'s continue' if len(alive) > 1 else ' continues'}: edc tail {name}"]


if __name__ == "__main__":
    main()

"""Dataset condensation as a library: what a notebook needs, loaded only when it is asked for.

>>> import engine
>>> folder = engine.run("projects/quickstart.toml", ["condense.ipc=1"])
>>> condensed = engine.CondensedDataset.open(folder)

`load_project(path, overrides)` reads and checks a project file; `run(path, overrides)` runs or resumes it in the foreground and returns
the run's folder; `open_run(folder)` opens a run wherever it lies; `CondensedDataset` holds the images a run has made. Importing this
package loads neither torch nor textual.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.commands.run import run_project as run
    from engine.data.condensed import CondensedDataset
    from engine.project.files import load_project
    from engine.runs.layout import open_run

__all__ = ["CondensedDataset", "load_project", "open_run", "run"]

_PLACES = {
    "CondensedDataset": ("engine.data.condensed", "CondensedDataset"),
    "load_project": ("engine.project.files", "load_project"),
    "open_run": ("engine.runs.layout", "open_run"),
    "run": ("engine.commands.run", "run_project"),
}


def __getattr__(name: str) -> Any:
    """Import one of the public names."""
    if name not in _PLACES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)

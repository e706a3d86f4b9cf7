"""The project that an empty folder is offered: small enough to be through in about a minute on two cores."""

from importlib import resources
from pathlib import Path

from engine.errors import RunError, UserError
from engine.files import write_text

NAME = "quickstart"
TAKES = (
    "One 16 px image for each of ten handwritten digits is condensed, and a small network trained on those ten images alone.",
    "About a minute on two CPU cores; nothing is downloaded; a few megabytes of disk.",
)


def write_quickstart(projects: Path) -> Path:
    """Write quickstart.toml into a projects folder, which is made if need be; return its path.

    Raises UserError when there is one already, RunError when it cannot be written.
    """
    path = projects / f"{NAME}.toml"
    if path.exists():
        raise UserError(f"{path.name} exists already; open it instead")
    try:
        projects.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create {projects}: {error.strerror or error}") from error
    write_text(path, (resources.files("edc_tui") / path.name).read_text(encoding="utf-8"))
    return path

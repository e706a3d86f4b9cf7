"""A project file that is open for changing: what was read of it last, and whether somebody else has written it since."""

from pathlib import Path

from engine.errors import RunError, UserError
from engine.files import FileMark, file_mark, write_text
from engine.project.draft import Draft
from engine.project.files import new_project_text, read_text
from engine.runs.text import printable

NEW = "new project"
LONGEST_NAME = 200  # bytes; file systems take 255, and a run folder's lock has a name made of it


class OpenFile:
    """A file on the disk, or one that has no name yet (`path` is None) in the folder `projects`."""

    def __init__(self, path: Path | None, projects: Path) -> None:
        self.path, self._projects = path, projects
        self.text = ""  # as it was read or written last; for a new project, what one begins with
        self._stamp: FileMark | None = None

    @property
    def name(self) -> str:
        """Return the project's name."""
        return self.path.stem if self.path else NEW

    @property
    def place(self) -> Path:
        """Return where the file lies or will lie: relative paths in it are meant from its folder."""
        return self.path or self._projects / f"{NEW}.toml"

    def read(self) -> str:
        """Read the file, or begin a new one, and return the text; raises UserError when it is missing or no text."""
        if self.path is None:
            self.text = new_project_text(NEW, dataset="digits", method="edc", ipc=10)
        else:
            stamp = file_mark(self.path)  # before the text: what is written in between is noticed
            self.text, self._stamp = read_text(self.path), stamp
        return self.text

    def text_elsewhere(self) -> str | None:
        """Return what another program has made of the file since it was read or written here; None when nothing, or when it is gone."""
        if self.path is None:
            return None
        stamp = file_mark(self.path)
        if stamp == self._stamp or stamp is None:
            return None
        try:
            text = read_text(self.path)
        except UserError:
            return None
        if text == self.text:
            self._stamp = stamp
            return None
        return text

    def is_there(self) -> bool:
        """Say whether the file exists."""
        return self.path is not None and self.path.exists()

    def write(self, path: Path, text: str) -> None:
        """Replace the file in one step; raises RunError when it cannot be written, and then the file here is what it was."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create {printable(path.parent)}: {error.strerror or error}") from error
        write_text(path, text)
        self.path, self.text, self._stamp = path, text, file_mark(path)


def stem(text: str) -> str:
    """Return a name as typed without blanks around it and `.toml` behind it."""
    return text.strip().removesuffix(".toml")


def name_problem(projects: Path, text: str) -> str | None:
    """Say what is wrong with a typed name for a new project of a folder; None when it can be had."""
    name = stem(text)
    if not name or name.startswith((".", "-")) or "/" in name or printable(name) != name:
        return "use a file name without slashes, control characters or a leading dot or dash"
    if len(name.encode()) > LONGEST_NAME:
        return f"use a name of at most {LONGEST_NAME} bytes"
    return f"{name}.toml exists already; choose another name" if (projects / f"{name}.toml").exists() else None


def suggested_name(projects: Path, draft: Draft) -> str:
    """Return a name that says what the project is and is free: `digits-edc-ipc10`."""
    project = draft.resolved.project
    base = f"{project.dataset.name}-{project.condense.method}-ipc{project.condense.ipc}"
    names = [base, *(f"{base}-{number}" for number in range(2, 100))]
    return next((name for name in names if name_problem(projects, name) is None), base)

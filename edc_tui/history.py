"""What was changed in a project since it was read, one step after the other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.project.draft import Draft, changed, read_draft


class History:
    """The draft as it is now, and what it was before each change; while a line is open, its changes count as one and may be taken back."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self._before: Draft | None = None  # while a line is open: what it began with
        self._done: list[str] = []  # texts before each change
        self._undone: list[str] = []

    @property
    def open(self) -> bool:
        """Say whether a line is open."""
        return self._before is not None

    @property
    def can_undo(self) -> bool:
        """Say whether there is a change to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Say whether there is a change to do again."""
        return bool(self._undone)

    def begin(self) -> None:
        """A line opens."""
        self._before = self.draft

    def cancel(self) -> None:
        """A line closes with everything as it was."""
        self.draft, self._before = self._before or self.draft, None

    def change(self, changes: Mapping[str, Any], place: Path, *, fresh: bool, done: bool = True) -> None:
        """Set values as `engine.project.draft.changed` does; those of an open line, until `done`, in place of its earlier ones.

        Raises UserError when the text cannot be changed, and then it is as it was before the line opened.
        """
        before = self._before or self.draft
        self.draft = before
        if done:
            self._before = None
        after = changed(before, changes, place, fresh=fresh)
        if done:
            self.take(after)
        else:
            self.draft = after

    def take(self, draft: Draft) -> None:
        """Go on from another draft; the one before can be had back."""
        if draft.text != self.draft.text:
            self._done.append(self.draft.text)
            self._undone = []
        self.draft = draft

    def undo(self, place: Path) -> None:
        """Take the last change back."""
        if self._done:
            self._undone.append(self.draft.text)
            self.draft = read_draft(self._done.pop(), place)

    def redo(self, place: Path) -> None:
        """Do again what was taken back."""
        if self._undone:
            self._done.append(self.draft.text)
            self.draft = read_draft(self._undone.pop(), place)

"""The form: one line for each key of the schema, in sections and groups."""

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static

from edc_tui.widgets.form_fields import FormSection, form_sections
from edc_tui.widgets.form_lines import FieldLine, FormLine, GroupLine, Heading
from engine.project.draft import Draft


class Form(VerticalScroll, can_focus=False):
    """All keys of the schema."""

    DEFAULT_CSS = """
    Form { scrollbar-size-vertical: 1; padding: 0 1 0 0; }
    Form .body { height: auto; display: none; }
    Form .body.-open { display: block; }
    Form .-hidden { display: none; }
    Form #nothing { display: none; color: $text-muted; margin: 1 2; }
    Form #nothing.-shown { display: block; }
    """
    SECTIONS: ClassVar[list[FormSection]] = form_sections()

    def compose(self) -> ComposeResult:
        """Lay out every section."""
        yield Static("nothing fits", markup=False, id="nothing")
        for number, section in enumerate(self.SECTIONS):
            yield Heading(section.title, classes="-first" if number == 0 else None)
            single = len({name.partition(".")[0] for name in section.names if "." in name}) == 1
            for name in section.names:
                yield FieldLine(name, name.partition(".")[2] if single and "." in name else name)
            for group in section.groups:
                yield GroupLine(group)
                with Vertical(classes="body", id=f"body-{group.section}"):
                    for name in group.names:
                        yield FieldLine(name, name.partition(".")[2])

    def on_mount(self) -> None:
        """Keep what is asked for on every change."""
        self.heading = self.query(Heading).first()  # has the colours of all lines
        self.fields = {line.key: line for line in self.query(FieldLine)}
        self.groups = {line.group.section: line for line in self.query(GroupLine)}

    def show(self, draft: Draft, problems: dict[str, str]) -> None:
        """Show a draft; `problems` by key may be more than the draft's own."""
        for line in self.fields.values():
            line.show(draft, problems)
        for group in self.groups.values():
            group.show(draft, problems)

    def at(self) -> str | None:
        """Return the key at the cursor, open or not."""
        line = self._line_at()
        return line.key if isinstance(line, FieldLine) else None

    def _line_at(self) -> FormLine | None:
        """Return the line at the cursor."""
        focused = self.screen.focused
        return next((node for node in focused.ancestors_with_self if isinstance(node, FormLine)), None) if focused else None

    def on_group_line_folded(self, event: GroupLine.Folded) -> None:
        """Show or hide the lines of a group."""
        self.query_one(f"#body-{event.section}").set_class(event.open, "-open")

    def go_to(self, name: str) -> None:
        """Go to the line of a key, opening its group."""
        line = self.fields[name]
        group = self.groups.get(name.partition(".")[0])
        if group is not None and name in group.group.names:
            group.fold(True)
            self.query_one(f"#body-{group.group.section}").add_class("-open")
        line.focus()

    def lines(self) -> list[FormLine]:
        """Return the lines that can be seen or scrolled to, from the top."""
        return [line for line in self.query(FormLine) if line.display and all(node.display for node in line.ancestors if node is not self)]

    def go(self, line: FormLine, step: int) -> None:
        """Go some lines further, as far as there are any."""
        lines = self.lines()
        if line in lines:
            self.screen.set_focus(lines[min(max(lines.index(line) + step, 0), len(lines) - 1)])

    def go_section(self, step: int) -> None:
        """Go to the first line of the next section, or of the one before."""
        lines = self.lines()
        firsts = [self.fields[section.names[0]] for section in self.SECTIONS if self.fields[section.names[0]] in lines]
        here = self._line_at()
        place = lines.index(here) if here in lines else 0
        if step > 0:
            ahead = [line for line in firsts if lines.index(line) > place]
            target = ahead[0] if ahead else None
        else:
            behind = [line for line in firsts if lines.index(line) < place]
            target = behind[-1] if behind else None
        if target is not None:
            target.focus()
            target.scroll_visible(top=True, animate=False)

    def keep(self, names: Iterable[str] | None) -> None:
        """Show only these keys, whatever group they are in; None shows the form as it is folded."""
        kept = None if names is None else set(names)
        self.set_class(kept is not None, "-filtered")
        for name, line in self.fields.items():
            line.set_class(kept is not None and name not in kept, "-hidden")
            line.name_in_full(kept is not None)
        for section, group in self.groups.items():
            group.set_class(kept is not None, "-hidden")
            body = self.query_one(f"#body-{section}")
            body.set_class(group.open if kept is None else bool(kept & set(group.group.names)), "-open")
        for heading, section in zip(self.query(Heading), self.SECTIONS, strict=True):
            inside = {*section.names, *(name for group in section.groups for name in group.names)}
            heading.set_class(kept is not None and not kept & inside, "-hidden")
        self.query_one("#nothing").set_class(kept is not None and not kept, "-shown")

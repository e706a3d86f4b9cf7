"""Every key of the app, as data: the footer, the help screen and a user's keys.toml are all made from these tables.

A room is a screen or a widget that takes keys; it declares `BINDINGS = bindings("room")`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.binding import Binding


@dataclass(frozen=True)
class Key:
    """A key of one room: `id` is what keys.toml calls it, `key` one or more keys with commas between, `help` one sentence."""

    id: str
    key: str
    action: str
    description: str
    help: str
    show: bool = True


KEYS: dict[str, tuple[Key, ...]] = {
    "app": (
        Key("app.help", "question_mark", "help", "Help", "Show the keys of this screen and what it is for."),
        Key("app.back", "escape", "back", "Back", "Close what is open, or go back to the screen before."),
        Key("app.palette", "ctrl+p", "command_palette", "Commands", "Search everything that can be done now."),
        Key("app.repaint", "ctrl+l", "repaint", "Repaint", "Draw the screen anew, after something else has written over it.", show=False),
        Key("app.suspend", "ctrl+z", "suspend_process", "Suspend", "Go back to the shell for a while; `fg` comes back.", show=False),
        Key("app.quit", "q", "quit", "Leave", "Leave the app; runs go on."),
    ),
    "home": (
        Key("home.open", "enter", "open", "Open", "Open the run, or the project's form."),
        Key("home.mark", "space", "mark", "Mark", "Mark the run, for comparing or for doing something to several at once."),
        Key("home.compare", "c", "compare", "Compare", "Put the two to six marked runs side by side."),
        Key("home.start", "s", "start", "Start", "Start the project in the background, or go on with its unfinished run."),
        Key("home.stop", "x", "stop", "Stop", "Stop the run with a checkpoint; once more while it is stopping: end it at once."),
        Key("home.resume", "r", "resume", "Resume", "Go on with the run from its last checkpoint, in the background."),
        Key("home.quickstart", "t", "quickstart", "Try quickstart", "Write a small project and run it: about a minute on two cores."),
        Key("home.new", "n", "new", "New", "Make a new project."),
        Key("home.edit", "e", "edit", "Edit", "Change the project in its form."),
        Key("home.images", "i", "images", "Images", "Look at the condensed images of the run, or of two marked runs side by side."),
        Key("home.filter", "slash", "filter", "Filter", "Keep what fits: words, and terms such as acc>60 method=edc ipc=10 status=done."),
        Key("home.order", "o", "order", "Sort", "Sort by newest, accuracy, name or status."),
        Key("home.flat", "f", "flat", "Flat", "List runs alone, or below their projects.", show=False),
        Key("home.fold", "left,h", "fold(True)", "Fold", "Hide the runs of the project.", show=False),
        Key("home.unfold", "right,l", "fold(False)", "Unfold", "Show the runs of the project.", show=False),
        Key("home.remove", "d,delete", "remove", "Remove", "Delete the runs with everything in their folders, after asking.", show=False),
        Key("home.editor", "E", "editor", "Editor", "Open the project's file in $VISUAL or $EDITOR.", show=False),
        Key("home.copy_id", "y", "copy_id", "Copy id", "Copy the run's id, which every `edc` command takes.", show=False),
        Key("home.copy_path", "Y", "copy_path", "Copy path", "Copy the path of the run's folder or the project's file.", show=False),
        Key("home.clear", "escape", "clear", "Clear", "Take back the filter, then the marks."),
    ),
    "rows": (
        Key("rows.up", "up,k", "move(-1)", "Up", "Go up by a line.", show=False),
        Key("rows.down", "down,j", "move(1)", "Down", "Go down by a line.", show=False),
        Key("rows.page_up", "pageup,ctrl+b", "page(-1)", "Page up", "Go up by a page.", show=False),
        Key("rows.page_down", "pagedown,ctrl+f", "page(1)", "Page down", "Go down by a page.", show=False),
        Key("rows.first", "home,g", "edge(False)", "First", "Go to the first line.", show=False),
        Key("rows.last", "end,G", "edge(True)", "Last", "Go to the last line.", show=False),
    ),
    "help": (
        Key("help.up", "up,k", "scroll(-1)", "Up", "Go up by a line.", show=False),
        Key("help.down", "down,j", "scroll(1)", "Down", "Go down by a line.", show=False),
        Key("help.page_up", "pageup,ctrl+b", "page(-1)", "Page up", "Go up by a page."),
        Key("help.page_down", "pagedown,space,ctrl+f", "page(1)", "Page down", "Go down by a page."),
        Key("help.first", "home,g", "edge(False)", "Beginning", "Go to the beginning.", show=False),
        Key("help.last", "end,G", "edge(True)", "End", "Go to the end.", show=False),
    ),
    "project": (
        Key("project.save", "s,ctrl+s", "save", "Save", "Write the file; comments and order of what you wrote by hand stay."),
        Key("project.run", "r", "run", "Start", "Save, and start the project in the background, or go on with its unfinished run."),
        Key("project.editor", "e", "editor", "Editor", "Open the file in $VISUAL or $EDITOR; unsaved changes are saved before."),
        Key("project.undo", "u,ctrl+z", "undo", "Undo", "Take the last change back."),
        Key("project.redo", "U,ctrl+y", "redo", "Redo", "Do again what was taken back.", show=False),
        Key("project.find", "slash", "find", "Find", "Keep the values whose name or help has these words."),
        Key("project.mine", "v", "mine", "Only yours", "Show only what you have set and what is wrong, or everything."),
        Key("project.preview", "p", "preview", "File and plan", "Go to the file as it will be saved and the plan, or back to the form."),
        Key("project.follow", "M", "follow", "Follow method", "Take the method's own value wherever you have another one.", show=False),
        Key("project.problem", "n", "problem", "Next problem", "Go to the next value that is wrong."),
        Key("project.next_section", "right_square_bracket", "section(1)", "Next section", "Go to the next section.", show=False),
        Key("project.previous_section", "left_square_bracket", "section(-1)", "Section before", "Go to the section before.", show=False),
        Key("project.help", "question_mark", "field_help", "Help", "Explain the value at the cursor; once more: the keys of this screen."),
        Key("project.back", "escape", "leave", "Back", "Take back the search, or go back, asking what becomes of unsaved changes."),
        Key("project.quit", "q", "quit_app", "Leave", "Leave the app, asking what becomes of unsaved changes; runs go on."),
    ),
    "form": (
        Key("form.edit", "enter", "edit", "Change", "Change the value, or open and close the group."),
        Key("form.method", "m,backspace,delete", "reset", "Reset", "Take the method's own value again."),
        Key("form.cancel", "escape", "cancel", "As it was", "Close an open line with everything as it was."),
        Key("form.toggle", "space", "toggle", "Change", "Switch on or off, take the next choice, or open and close the group.", show=False),
        Key("form.next", "right,l", "cycle(1)", "Next choice", "Take the next choice, or open the group.", show=False),
        Key("form.previous", "left,h", "cycle(-1)", "Choice before", "Take the choice before, or close the group.", show=False),
        Key("form.up", "up,k", "move(-1)", "Up", "Go up by a line; in an open field what was typed stands.", show=False),
        Key("form.down", "down,j", "move(1)", "Down", "Go down by a line; in an open field what was typed stands.", show=False),
        Key("form.page_up", "pageup,ctrl+b", "move(-10)", "Page up", "Go up by ten lines.", show=False),
        Key("form.page_down", "pagedown,ctrl+f", "move(10)", "Page down", "Go down by ten lines.", show=False),
        Key("form.first", "home,g", "edge(False)", "First", "Go to the first line.", show=False),
        Key("form.last", "end,G", "edge(True)", "Last", "Go to the last line.", show=False),
    ),
    "unsaved": (
        Key("unsaved.save", "s,y", "answer('save')", "Save", "Save the changes."),
        Key("unsaved.discard", "d,n", "answer('discard')", "Discard", "Drop the changes."),
        Key("unsaved.back", "b,escape", "answer('back')", "Back", "Go on changing."),
    ),
    "changed": (
        Key("changed.both", "b", "answer('both')", "Both", "Put your values into the file as it is now."),
        Key("changed.mine", "m", "answer('mine')", "Mine", "Write what the form shows over the file."),
        Key("changed.theirs", "t", "answer('theirs')", "Theirs", "Drop your changes and show the file."),
        Key("changed.difference", "d", "answer('difference')", "Difference", "Show or hide where the two differ."),
        Key("changed.back", "escape", "answer('back')", "Back", "Write nothing for now."),
    ),
    "explained": (
        Key("explained.keys", "question_mark", "keys", "Keys", "Show the keys of the screen."),
        Key("explained.close", "escape,enter,q", "close", "Close", "Close the explanation."),
    ),
    "picker": (
        Key("picker.take", "space", "take", "Take", "Take the choice at the cursor, or leave it."),
        Key("picker.enter", "enter", "enter", "Done", "Be done with what is chosen; after a search, take what was found."),
        Key("picker.up", "up,ctrl+k", "move(-1)", "Up", "Go up by a choice.", show=False),
        Key("picker.down", "down,ctrl+j", "move(1)", "Down", "Go down by a choice.", show=False),
        Key("picker.cancel", "escape", "cancel", "As it was", "Close the list with everything as it was."),
    ),
    "dialog": (
        Key("dialog.yes", "y", "yes", "Yes", "Do it."),
        Key("dialog.no", "n,escape", "no", "No", "Leave everything as it is."),
    ),
    "run": (
        Key("run.stop", "x", "stop", "Stop", "Stop the run with a checkpoint; once more while it is stopping: end it at once."),
        Key("run.resume", "r", "resume", "Resume", "Go on from the last checkpoint, in the background."),
        Key("run.images", "i", "images", "Images", "Look at the condensed images."),
        Key("run.previous_stage", "left_square_bracket", "stage(-1)", "Earlier stage", "Show the curves of the stage before.", show=False),
        Key("run.next_stage", "right_square_bracket", "stage(1)", "Later stage", "Show the curves of the stage after.", show=False),
        Key("run.follow", "0", "follow", "Follow", "Show the curves of whatever stage is at work.", show=False),
        Key("run.chart", "c", "chart(1)", "Chart", "Show the next chart of the stage."),
        Key("run.previous_chart", "C", "chart(-1)", "Chart before", "Show the chart before.", show=False),
        Key("run.smoothing", "m", "smoothing", "Smooth", "Smooth the lines not at all, lightly or strongly."),
        Key("run.log_scale", "l", "log_scale", "Log", "Draw the y axis linear or logarithmic."),
        Key("run.time", "t", "time", "Time", "Draw the lines over steps or over the time at work."),
        Key("run.alone", "z", "alone", "Alone", "Show the chart or the log that has the focus alone, or everything again."),
        Key("run.leave_alone", "escape", "leave_alone", "Everything", "Show everything again."),
        Key("run.facts", "f", "facts", "Facts", "Show or hide what the run is made of and where it lies."),
        Key("run.output", "o", "output", "Output", "Show the events or the worker's own output in the log.", show=False),
        Key("run.search", "slash", "search", "Search", "Search the log."),
        Key("run.error", "e", "error(1)", "Error", "Go to the next warning or error in the log, from the last to the first.", show=False),
        Key("run.copy_id", "y", "copy_id", "Copy id", "Copy the run's id, which every `edc` command takes.", show=False),
        Key("run.copy_path", "Y", "copy_path", "Copy path", "Copy the path of the run's folder.", show=False),
    ),
    "gallery": (
        Key("gallery.zoom", "enter,z", "zoom", "Zoom", "Show the image under the cursor as large as it fits."),
        Key("gallery.leave_zoom", "escape,enter,z", "leave_zoom", "All images", "Show all images again."),
        Key("gallery.initial", "i", "initial", "Initial", "Show the images before they were optimised, then both, then as they are."),
        Key("gallery.class", "c", "choose_class", "Class", "Choose a class by its name."),
        Key("gallery.beside", "b", "beside", "Beside", "Put the images of another run beside these, or take them away again."),
        Key("gallery.pictures", "v", "pictures", "Graphics", "Show these images in the terminal's own graphics, kitty's or sixel."),
        Key("gallery.larger", "plus,equals_sign", "size(1)", "Larger", "Show images larger."),
        Key("gallery.smaller", "minus", "size(-1)", "Smaller", "Show images smaller, and more of them."),
        Key("gallery.fit", "0", "fit", "Fit", "Let the size be chosen by the room there is.", show=False),
        Key("gallery.left", "left,h", "move(0, -1)", "Left", "Go to the image at the left.", show=False),
        Key("gallery.right", "right,l", "move(0, 1)", "Right", "Go to the image at the right.", show=False),
        Key("gallery.up", "up,k", "move(-1, 0)", "Up", "Go to the class above.", show=False),
        Key("gallery.down", "down,j", "move(1, 0)", "Down", "Go to the class below.", show=False),
        Key("gallery.page_up", "pageup,ctrl+b", "page(-1)", "Page up", "Show the classes before.", show=False),
        Key("gallery.page_down", "pagedown,space,ctrl+f", "page(1)", "Page down", "Show the next classes.", show=False),
        Key("gallery.first", "home,g", "edge(False)", "First", "Go to the first class.", show=False),
        Key("gallery.last", "end,G", "edge(True)", "Last", "Go to the last class.", show=False),
    ),
    "compare": (
        Key("compare.table", "1", "view('table')", "Table", "Show settings, results, times and sizes.", show=False),
        Key("compare.curves", "2", "view('curves')", "Curves", "Show accuracies and losses of all runs over one another.", show=False),
        Key("compare.students", "3", "view('students')", "Students", "Show how each run does with each student.", show=False),
        Key("compare.all", "a", "everything", "All", "Show every setting and measurement, or only settings that differ."),
        Key("compare.baseline", "b", "baseline", "Baseline", "Hold the others against this run; on the baseline: against none."),
        Key("compare.measure", "v", "measure", "Value", "Show the next measure: top-1, gain over random images, top-5."),
        Key("compare.chart", "c", "chart(1)", "Chart", "Show the next chart."),
        Key("compare.previous_chart", "C", "chart(-1)", "Chart before", "Show the chart before.", show=False),
        Key("compare.smoothing", "m", "smoothing", "Smooth", "Smooth the lines not at all, lightly or strongly."),
        Key("compare.log_scale", "l", "log_scale", "Log", "Draw the y axis linear or logarithmic."),
        Key("compare.time", "t", "time", "Time", "Draw the lines over steps or over the time at work."),
        Key("compare.alone", "z", "alone", "Alone", "Show one chart alone, or as many as fit."),
        Key("compare.write", "w", "write", "Write", "Write the table as CSV, Markdown, LaTeX or JSON, or the curves as SVG or PNG."),
        Key("compare.open", "enter", "open", "Open", "Open the run under the cursor."),
        Key("compare.images", "i", "images", "Images", "Look at its images, beside those of the baseline."),
        Key("compare.drop", "d,delete", "drop", "Take out", "Take the column out of the comparison; its runs stay.", show=False),
    ),
    "table": (
        Key("table.left", "left,h", "column(-1)", "Left", "Go to the column at the left.", show=False),
        Key("table.right", "right,l", "column(1)", "Right", "Go to the column at the right.", show=False),
        Key("table.section", "s", "section", "Section", "Go to the next section: each student, time, size, what the signs mean."),
        Key("table.up", "up,k", "scroll(-1)", "Up", "Scroll up by a line.", show=False),
        Key("table.down", "down,j", "scroll(1)", "Down", "Scroll down by a line.", show=False),
        Key("table.page_up", "pageup,ctrl+b", "page(-1)", "Page up", "Scroll up by a page.", show=False),
        Key("table.page_down", "pagedown,space,ctrl+f", "page(1)", "Page down", "Scroll down by a page.", show=False),
        Key("table.first", "home,g", "edge(False)", "First", "Go to the first line.", show=False),
        Key("table.last", "end,G", "edge(True)", "Last", "Go to the last line.", show=False),
    ),
    "chart": (
        Key("chart.left", "left", "inspect(-1)", "Inspect", "Read the values at a point; move it left.", show=False),
        Key("chart.right", "right", "inspect(1)", "Inspect", "Move the point to the right.", show=False),
        Key("chart.left_far", "shift+left", "inspect(-10)", "Far left", "Move the point ten columns left.", show=False),
        Key("chart.right_far", "shift+right", "inspect(10)", "Far right", "Move the point ten columns right.", show=False),
        Key("chart.leave", "escape", "leave_point", "Leave point", "Show the last values again.", show=False),
        Key("chart.next_lines", "full_stop", "page(1)", "More lines", "Show the next six lines.", show=False),
        Key("chart.previous_lines", "comma", "page(-1)", "Lines before", "Show the six lines before.", show=False),
    ),
    "log": (
        Key("log.up", "up,k", "move(-1)", "Up", "Scroll up by a line.", show=False),
        Key("log.down", "down,j", "move(1)", "Down", "Scroll down by a line.", show=False),
        Key("log.page_up", "pageup,b", "move_page(-1)", "Page up", "Scroll up by a page.", show=False),
        Key("log.page_down", "pagedown,space", "move_page(1)", "Page down", "Scroll down by a page.", show=False),
        Key("log.first", "home,g", "ends(-1)", "First line", "Go to the first line that was read.", show=False),
        Key("log.last", "end,G", "ends(1)", "Last line", "Go to the last line and stay there.", show=False),
        Key("log.next_match", "n", "match(1)", "Next match", "Go to the next match of the search.", show=False),
        Key("log.previous_match", "N", "match(-1)", "Match before", "Go to the match before.", show=False),
        Key("log.leave_search", "escape", "leave_search", "Leave search", "End the search.", show=False),
    ),
}


def bindings(room: str) -> list["Binding"]:
    """Return the bindings of a room, for the BINDINGS of its screen or widget."""
    from textual.binding import Binding

    return [Binding(key.key, key.action, key.description, id=key.id, tooltip=key.help, show=key.show) for key in KEYS[room]]


def every_key() -> dict[str, Key]:
    """Return all keys by id."""
    return {key.id: key for table in KEYS.values() for key in table}

"""The app's own themes, one dark and one light; Textual's others, `ansi-dark` and `ansi-light` among them, can be chosen as well."""

from textual.theme import Theme

DARK = Theme(
    name="edc-dark",
    primary="#5ea1d6",
    secondary="#8f8ad8",
    accent="#62c4d8",
    success="#7bc275",
    warning="#e3b341",
    error="#ef6b73",
    foreground="#d8dce3",
    background="#14171c",
    surface="#1b1f26",
    panel="#232932",
    dark=True,
    variables={"footer-key-foreground": "#62c4d8"},
)
LIGHT = Theme(
    name="edc-light",
    primary="#1f6fb2",
    secondary="#5a54b8",
    accent="#0d7286",
    success="#2f7d32",
    warning="#8f5b00",
    error="#b3261e",
    foreground="#22262b",
    background="#fbfbf9",
    surface="#f1f1ee",
    panel="#e6e6e1",
    dark=False,
    variables={"footer-key-foreground": "#0d7286"},
)
OWN = (DARK, LIGHT)
DEFAULT = DARK.name
SLOW_LINK = "ansi-dark"  # the terminal's own sixteen colours take the fewest bytes

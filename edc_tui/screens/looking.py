"""A screen that looks at files again and again while it is in front."""

from textual.screen import Screen
from textual.timer import Timer


class LookingScreen(Screen[None]):
    """Looks when it comes to the front and then at its own pace; not at all while another screen covers it."""

    _timer: Timer | None = None

    def look(self) -> None:
        """Read what is new, in a thread."""
        raise NotImplementedError

    def on_screen_suspend(self) -> None:
        """Look no more while another screen is in front."""
        if self._timer is not None:
            self._timer.pause()

    def on_screen_resume(self) -> None:
        """Look again."""
        if self._timer is not None:
            self._timer.resume()
            self.look()

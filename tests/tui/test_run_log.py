"""The log of the run screen: read from its end, searched, and gone through from error to error."""

import time

import pytest
from app_driver import screen_text, until
from run_driver import after, watch

from edc_tui.feed import TextTail, text_line
from edc_tui.screens.run import RunScreen
from edc_tui.widgets.log import LogTail
from engine.runs.events import EventLog


class TestTheLog:
    def lines(self, run, count, text="line"):
        with EventLog(run.events) as log:
            for number in range(count):
                log.append("log", level="info", text=f"{text} {number}")

    def test_slash_searches_and_n_goes_on(self, projects, synthesising):
        run, _ = synthesising
        self.lines(run, 100)

        async def doings(pilot, app):
            await until(pilot, lambda text: "line 99" in text)
            await pilot.press("slash", *"LINE 3", "enter")
            await until(pilot, lambda text: "11 × LINE 3" in text and "line 39" in text)
            await pilot.press("n", "n")
            await until(pilot, lambda text: "line 30" in text or "line 3" in text)
            await pilot.press("escape")
            return await until(pilot, lambda text: "line 99" in text and "× LINE" not in text)

        watch(projects, run, doings)

    def test_what_is_not_there_is_said_not_to_be(self, projects, synthesising):
        text = watch(projects, synthesising[0], after("slash", "q", "[", "x", "enter"))
        assert "neither log holds 'q[x'" in text and "× q[x" not in text

    def test_what_stands_in_the_other_log_is_found_there(self, projects, synthesising):
        run, _ = synthesising
        run.worker_log.write_text("one\nneedle here\n" + "hay\n" * 40)
        text = watch(projects, run, after("slash", *"needle", "enter"))
        assert "output of the worker  line" in text and "1 × needle" in text and "▸ needle here" in text

    def test_escape_closes_the_search_without_leaving_the_screen(self, projects, synthesising):
        async def doings(pilot, app):
            await pilot.press("slash", "a", "escape")
            await pilot.pause(0.1)
            return isinstance(app.screen, RunScreen) and not app.screen.query_one("#search").has_class("-open")

        assert watch(projects, synthesising[0], doings)

    def test_e_goes_to_the_error_in_whichever_log_it_is(self, projects, synthesising):
        run, _ = synthesising
        run.worker_log.write_text("all is well\n" * 50 + "Traceback (most recent call last):\n" + "all is well\n" * 50)
        text = watch(projects, run, after("e"))
        assert "output of the worker" in text and "▸ Traceback" in text

    def test_scrolling_up_stays_there_while_lines_come_and_end_follows_again(self, projects, synthesising):
        run, _ = synthesising
        self.lines(run, 50)

        async def doings(pilot, app):
            await until(pilot, lambda text: "line 49" in text)
            app.screen.query_one(LogTail).focus()
            await pilot.press("home")
            await until(pilot, lambda text: "the run was started" in text)
            self.lines(run, 20, "more")
            await pilot.pause(0.6)  # three looks
            assert "more 19" not in screen_text(app)
            await pilot.press("end")
            return await until(pilot, lambda text: "more 19" in text)

        watch(projects, run, doings)

    def test_of_a_gigabyte_only_the_end_is_read(self, projects, synthesising):
        run, _ = synthesising
        with run.worker_log.open("wb") as file:
            file.truncate(1 << 30)
            file.seek(0, 2)
            file.write(b"\nthe last line\n")
        begun = time.monotonic()
        text = watch(projects, run, after("o"))
        assert "the last line" in text and "1.0 GiB, the last 256 KiB" in text
        assert time.monotonic() - begun < 8

    def test_a_half_line_is_shown_once_it_stays_and_overwritten_bars_show_their_last(self, tmp_path):
        path = tmp_path / "log"
        tail = TextTail(path)
        assert tail.read() == []
        path.write_bytes(b"one\ntwo")
        assert [line.text for line in tail.read()] == ["one"]
        assert [line.text for line in tail.read()] == ["two"]
        path.write_bytes(b"anew\n")
        path.write_bytes(b"10%\r50%\r100%\r\n")
        assert [line.text for line in tail.read()] == ["100%"]

    @pytest.mark.parametrize(
        ("raw", "level"),
        [(b"ValueError: no", "error"), (b"UserWarning: hm", "warning"), (b"0 terrors", "info"), (b"error: no", "error")],
    )
    def test_errors_and_warnings_are_told_apart(self, raw, level):
        assert text_line(raw).level == level

    def test_control_characters_never_reach_the_terminal(self):
        assert text_line(b"  a\x1b]0;x\x07\xff\tb").text == "  a�]0;x��  b"
        assert len(text_line(b"x" * 1_000_000).text) == 2000

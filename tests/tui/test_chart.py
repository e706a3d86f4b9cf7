"""Curves in braille: series that stay small, axes that stay put, lines, gaps, legends, and the point one inspects."""

import math
import random
import time

import pytest
from app_driver import run_async, screen_text, write_metrics
from textual.app import App

from edc_tui.charts import charts_of, step_names
from edc_tui.curves import CurveFile, Series, WorkClock, spread_times
from edc_tui.widgets.cells import Canvas, Cells, changes
from edc_tui.widgets.chart import MARKERS, Chart, Line, Raster, ema_span, reduce, smooth
from edc_tui.widgets.scales import Scale, fit, fit_seconds, fit_steps, number_text, round_down, round_up, tick_text, ticks, time_text
from engine.runs.events import Metrics


def series_of(values, *, capacity=4096, first=1):
    series = Series(capacity)
    for step, value in enumerate(values, start=first):
        series.append(step, float(step), value)
    return series


class TestSeriesStaySmall:
    def test_every_point_is_kept_while_there_is_room(self):
        series = series_of([3.0, 1.0, 2.0])
        assert list(series.low) == list(series.high) == [3.0, 1.0, 2.0]
        assert list(series.first) == list(series.last) == [1, 2, 3]

    @pytest.mark.parametrize("count", [9, 64, 1001])
    def test_beyond_it_buckets_hold_the_range_the_sum_and_the_number_of_their_points(self, count):
        draws = random.Random(0)
        values = [draws.gauss(0, 1) for _ in range(count)]
        series = series_of(values, capacity=8)
        assert len(series) <= 8
        start = 0
        for index in range(len(series)):
            end = start + series.finite[index]
            part = values[start:end]
            assert (series.first[index], series.last[index]) == (start + 1, end)
            assert (series.low[index], series.high[index]) == (min(part), max(part))
            assert series.mean(index) == pytest.approx(sum(part) / len(part))
            start = end
        assert start == series.points == count

    def test_a_resumed_run_goes_over_its_steps_again_and_nothing_is_drawn_twice(self):
        series = series_of([5.0, 4.0, 3.0, 2.0])
        series.append(3, 9.0, 3.5)
        series.append(4, 10.0, 2.5)
        assert list(series.last) == [1, 2, 3, 4]
        assert list(series.low) == [5.0, 4.0, 3.5, 2.5]

    def test_a_resume_into_the_midst_of_a_bucket_keeps_the_steps_in_order(self):
        series = series_of([float(step) for step in range(1, 33)], capacity=4)
        series.append(11, 99.0, 11.0)
        assert series.last[-1] == 11
        assert all(a < b for a, b in zip(series.last, series.last[1:], strict=False))

    def test_what_is_no_number_is_counted_and_its_place_is_known(self):
        series = series_of([1.0, math.nan, math.inf, 2.0])
        assert series.diverged == 2
        assert list(series.bad) == [0, 1, 1, 0]
        assert series_of([1.0, 2.0]).diverged is None

    def test_the_nearest_point_is_found_by_step_and_by_time(self):
        series = series_of([1.0, 2.0, 3.0])
        assert [series.nearest(x) for x in (-5, 1.4, 1.6, 99)] == [0, 0, 1, 2]
        assert series.nearest(2.9, by_time=True) == 2
        assert Series().nearest(1.0) is None


class TestSmoothing:
    def test_it_is_the_exponential_average_without_the_bias_of_its_start(self):
        values, span = [4.0, 8.0, 6.0, 1.0], 3
        weight = 2 / (span + 1)
        expected = []
        for last in range(len(values)):
            weights = [weight * (1 - weight) ** (last - index) for index in range(last + 1)]
            expected.append(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))
        assert list(smooth(series_of(values), span)) == pytest.approx(expected)

    def test_a_bucket_of_several_points_counts_as_so_many(self):
        flat = list(smooth(series_of([2.0] * 40, capacity=8), 16))
        assert flat == pytest.approx([2.0] * len(flat))

    def test_a_value_that_is_no_number_leaves_a_gap_and_does_not_spoil_what_follows(self):
        found = list(smooth(series_of([2.0, math.nan, 2.0]), 4))
        assert math.isnan(found[1])
        assert found[2] == pytest.approx(2.0)

    def test_how_far_it_reaches_changes_only_now_and_then(self):
        spans = [ema_span(points, "light") for points in range(1, 5000)]
        assert all(span & (span - 1) == 0 for span in spans)
        assert sum(a != b for a, b in zip(spans, spans[1:], strict=False)) <= 6
        assert ema_span(10, "strong") == ema_span(10_000, "off") == 1
        assert ema_span(10_000, "strong") > ema_span(10_000, "light") > 1


class TestAxes:
    @pytest.mark.parametrize(("value", "up", "down"), [(1.0, 1, 1), (1.01, 2, 1), (49, 50, 20), (0.03, 0.05, 0.02), (700, 1000, 500)])
    def test_bounds_are_one_two_or_five_times_a_power_of_ten(self, value, up, down):
        assert round_up(value) == pytest.approx(up)
        assert round_down(value) == pytest.approx(down)

    def test_an_axis_holds_its_values_with_room_above(self):
        scale = fit(3.0, 97.0)
        assert scale.low == 0.0
        assert scale.high >= 97.0 * 1.05

    def test_percent_never_goes_past_a_hundred(self):
        assert fit(60.0, 99.0, top=100.0).high == 100.0

    def test_an_axis_stays_while_the_values_fit_and_is_made_anew_when_they_do_not(self):
        first = fit(0.0, 80.0)
        assert fit(10.0, 60.0, before=first) is first
        assert fit(0.0, 200.0, before=first) != first
        assert fit(0.0, 5.0, before=first) != first

    def test_a_thousand_falling_losses_change_the_axis_only_a_few_times(self):
        scale, changed, lows = None, 0, []
        for step in range(1, 1001):
            lows.append(100.0 / step)
            new = fit(min(lows), max(lows), before=scale)
            changed += new != scale
            scale = new
        assert changed <= 2

    def test_values_that_are_all_alike_still_have_an_axis(self):
        for value in (0.0, 5.0, -3.0):
            scale = fit(value, value)
            assert scale.low <= value <= scale.high
            assert scale.low < scale.high

    def test_a_logarithmic_axis_spans_at_least_a_decade_and_has_no_place_for_zero(self):
        scale = fit(30.0, 40.0, log=True)
        assert scale.high / scale.low >= 10
        assert scale.part(0.0) is None
        assert scale.part(math.sqrt(scale.low * scale.high)) == pytest.approx(0.5)

    def test_the_axis_of_steps_grows_in_jumps_and_stops_at_the_end_of_the_run(self):
        assert fit_steps(0).high == 1.0
        assert fit_steps(130).high == 150.0
        assert fit_steps(130, limit=140).high == 140.0
        assert fit_steps(300, limit=140).high == 300.0

    def test_the_axis_of_time_is_in_times_people_say(self):
        assert fit_seconds(61.0).high == 120.0
        assert fit_seconds(61.0, ended=True).high == 61.0
        assert fit_seconds(90_000.0).high == 2 * 86_400.0

    @pytest.mark.parametrize(
        "scale", [Scale(0.0, 100.0), Scale(-3.0, 0.5), Scale(1e-6, 3e-6), Scale(0.001, 1000.0, log=True), Scale(0, 120_000)]
    )
    @pytest.mark.parametrize("most", [1, 3, 8])
    def test_ticks_are_few_and_on_the_axis(self, scale, most):
        found = ticks(scale, most)
        assert len(found) <= most + 1
        slack = (scale.high - scale.low) * 1e-9
        assert all(scale.low - slack <= tick <= scale.high + slack for tick in found)

    def test_numbers_are_short(self):
        assert [number_text(value) for value in (0.0, 35.48123, 0.00206, 12480.4, 1.2e-7, math.nan, -math.inf)] == [
            "0",
            "35.48",
            "0.00206",
            "12,480",
            "1.2e-07",
            "nan",
            "-inf",
        ]
        assert [tick_text(value) for value in (0.02, 500, 20_000, 1.5e6, 1e-5)] == ["0.02", "500", "20k", "1.5M", "1e-5"]
        assert [time_text(value) for value in (30, 300, 5400, 172_800)] == ["30 s", "5 min", "1 h 30", "2 d"]


class TestReducing:
    def test_every_pixel_column_knows_the_lowest_and_the_highest_value_in_it(self):
        draws = random.Random(1)
        values = [draws.random() for _ in range(1000)]
        columns = reduce(series_of(values), Scale(0.0, 1000.0), 50)
        assert [column.pixel for column in columns] == list(range(50))
        for column in columns:
            part = [value for step, value in enumerate(values, 1) if round(step * 49 / 1000) == column.pixel]
            assert (column.low, column.high) == (min(part), max(part))

    def test_a_spike_of_one_point_among_200_000_is_seen(self):
        series = series_of([1000.0 if step == 123_456 else 1.0 for step in range(200_000)])
        columns = reduce(series, Scale(0.0, 200_000.0), 160, span=64)
        assert [column.pixel for column in columns if column.high == 1000.0] == [round(123_457 * 159 / 200_000)]

    def test_a_column_with_a_value_that_is_no_number_says_so(self):
        columns = reduce(series_of([1.0, math.nan, 1.0]), Scale(0.0, 3.0), 4)
        assert [column.bad for column in columns] == [False, True, False]

    def test_200_000_points_in_six_lines_are_drawn_quickly(self):
        chart = Chart()
        chart.lines = tuple(Line(str(place), series_of(range(200_000))) for place in range(6))
        begun = time.process_time()
        chart.draw(Canvas(120, 20))
        assert time.process_time() - begun < 0.5


class TestDots:
    def test_a_dot_lands_on_its_bit_of_the_braille_cell(self):
        raster = Raster(2, 1)
        raster.dot(0, 0, 0)
        raster.dot(3, 3, 1)
        assert raster.bits == {(0, 0): 0x01, (1, 0): 0x80}

    def test_what_lies_outside_is_left_out(self):
        raster = Raster(2, 2)
        for x, y in ((-1, 0), (4, 0), (0, -1), (0, 8)):
            raster.dot(x, y, 0)
        assert raster.bits == {}

    def test_a_cell_belongs_to_the_line_that_came_first(self):
        raster = Raster(1, 1)
        raster.dot(0, 0, 3)
        raster.dot(1, 1, 5)
        assert raster.owner[0, 0] == 3

    def test_a_line_joins_its_ends_without_a_hole(self):
        raster = Raster(10, 5)
        raster.line((0, 0), (19, 19), 0)
        assert sum(bin(bits).count("1") for bits in raster.bits.values()) == 20


class TestTimes:
    def test_steps_told_in_one_go_are_spread_over_the_time_since_the_last(self):
        rows = [Metrics(11.0, step, {}) for step in range(4)]
        assert list(spread_times(rows, before=10.0)) == pytest.approx([10.25, 10.5, 10.75, 11.0])

    def test_a_long_wait_before_is_not_taken_for_work(self):
        assert list(spread_times([Metrics(500.0, 1, {}), Metrics(500.0, 2, {})], before=10.0)) == [500.0, 500.0]

    def test_the_night_between_two_attempts_does_not_count(self):
        clock = WorkClock([100.0, 50_000.0])
        assert [clock.seconds(moment) for moment in (101.0, 110.0, 50_002.0, 50_010.0)] == [1.0, 10.0, 12.0, 20.0]


class TestMetricFiles:
    def test_a_growing_log_is_read_on_from_where_it_was(self, tmp_path):
        write_metrics(tmp_path, [(1, {"loss": 2.0}), (2, {"loss": 1.0})])
        curves = CurveFile(tmp_path / "metrics.jsonl")
        assert curves.read() is False
        write_metrics(tmp_path, [(3, {"loss": 0.5})])
        curves.read()
        assert list(curves.series["loss"].low) == [2.0, 1.0, 0.5]

    def test_a_log_that_is_not_there_yet_has_no_series(self, tmp_path):
        curves = CurveFile(tmp_path / "metrics.jsonl")
        assert curves.read() is False
        assert curves.series == {}

    def test_broken_lines_are_left_out(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(
            b'{"t":1,"s":1,"k":{"loss":1.0}}\n\x00\xffgarbage\n{"t":1,"s":"two","k":3}\n{"t":2,"s":2,"k":{"loss":"NaN"}}\n{"t":3,"s":'
        )
        curves = CurveFile(path)
        curves.read()
        assert (len(curves.series["loss"]), curves.series["loss"].diverged, curves.bad_lines) == (2, 2, 1)

    def test_accuracies_told_before_earlier_losses_are_not_taken_for_superseded(self, tmp_path):
        write_metrics(tmp_path, [(10, {"top1": 50.0}), (9, {"loss": 1.0}), (10, {"loss": 0.9}), (20, {"top1": 60.0})])
        curves = CurveFile(tmp_path / "metrics.jsonl")
        curves.read()
        assert (len(curves.series["top1"]), len(curves.series["loss"])) == (2, 2)

    def test_of_a_long_log_the_end_comes_first_and_then_the_whole(self, tmp_path):
        rows = [(step, {"loss": 1.0 / step, "matching": float(step), "classification": 0.123456789}) for step in range(1, 25_001)]
        write_metrics(tmp_path, rows)
        curves = CurveFile(tmp_path / "metrics.jsonl")
        assert curves.read() is True
        first = curves.series["loss"]
        assert first.last[-1] == 25_000
        assert first.first[0] > 20_000
        assert curves.part < 1.0
        while curves.read():
            assert curves.series["loss"].last[-1] == 25_000
        assert curves.part == 1.0
        assert (curves.series["loss"].first[0], curves.series["loss"].last[-1], curves.series["loss"].points) == (1, 25_000, 25_000)

    def test_a_log_that_was_written_anew_is_read_anew(self, tmp_path):
        write_metrics(tmp_path, [(step, {"loss": 1.0}) for step in range(1, 50)])
        curves = CurveFile(tmp_path / "metrics.jsonl")
        curves.read()
        (tmp_path / "metrics.jsonl").unlink()
        write_metrics(tmp_path, [(1, {"loss": 7.0})])
        curves.read()
        assert list(curves.series["loss"].low) == [7.0]


class TestWhichChartsAStageHas:
    def test_synthesis_has_the_matching_loss_by_part_and_a_chart_for_what_it_does_not_know(self, tmp_path):
        write_metrics(tmp_path, [(1, {"matching": 3.0, "matching_global": 1.0, "matching_class": 2.0, "classification": 1.0, "new": 1.0})])
        curves = CurveFile(tmp_path / "metrics.jsonl")
        curves.read()
        plans = charts_of("synthesise", {"condensed": curves})
        assert [plan.title for plan in plans] == ["matching loss", "classification loss", "whole loss", "new"]
        assert [line.name for line in plans[0].lines] == ["sum", "global", "class"]

    def test_steps_are_named_by_what_tells_them_apart(self):
        one = step_names(["condensed-resnet18-seed0", "random-resnet18-seed0", "condensed-resnet18-seed1"])
        assert list(one.values()) == ["condensed s0", "random s0", "condensed s1"]
        two = step_names(["condensed-resnet18-seed0", "condensed-convnet-d2-w16-seed0"])
        assert list(two.values()) == ["resnet18", "convnet-d2-w16"]
        assert step_names(["resnet18", "convnet-w128"]) == {"resnet18": "resnet18", "convnet-w128": "convnet-w128"}


class TestChangedCells:
    def test_only_what_differs_is_sent_and_near_changes_go_together(self):
        old, new = [("a", "")] * 40, [("a", "")] * 40
        new[3] = new[6] = new[30] = ("b", "")
        assert changes(old, new) == [(3, 7), (30, 31)]

    def test_a_wide_character_is_never_cut_in_half(self):
        old = [("名", ""), ("", ""), ("a", "")]
        new = [("名", ""), ("", "strong"), ("a", "")]
        assert changes(old, new) == [(0, 2)]

    def test_text_is_made_safe_and_cut_to_the_cells_there_are(self):
        canvas = Canvas(10, 1)
        canvas.put(0, 0, "[b]\x1b[31m名前と日本")
        assert "".join(text for text, _ in canvas.rows[0]) == "[b]�[31m …"


class ChartApp(App):
    """An app of one chart that counts the cells it is asked to draw anew."""

    def __init__(self, chart):
        super().__init__()
        self.chart = chart

    def compose(self):
        yield self.chart


def shown(chart, *keys, size=(80, 16), **how):
    """Return what a chart looks like after some keys."""

    async def look():
        app = ChartApp(chart)
        async with app.run_test(size=size) as pilot:
            chart.configure(**{name: how.pop(name) for name in ("smoothing", "log", "by_time") if name in how})
            chart.show(**how)
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
            await pilot.pause()
            return screen_text(app)

    return run_async(look())


def lines(*series):
    return [Line(f"line {place}", one) for place, one in enumerate(series)]


class TestTheChart:
    def test_a_falling_loss_falls_from_the_upper_left_to_the_lower_right(self):
        text = shown(Chart(), title="loss", lines=lines(series_of([100.0 - step for step in range(100)])), smoothing="off")
        rows = text.splitlines()
        dots = [(x, y) for y, row in enumerate(rows) for x, character in enumerate(row) if 0x2800 < ord(character) < 0x2900]
        assert min(dots)[1] < max(dots)[1]
        assert rows[0].startswith("loss  ● line 0 1")
        assert "100┤" in text
        assert "0┤" in text
        assert rows[-1].split()[-1] == "steps"

    def test_six_lines_have_six_markers_in_the_legend_and_on_the_plot(self):
        text = shown(Chart(), title="loss", lines=lines(*(series_of([float(height)] * 60) for height in range(6))))
        assert all(text.count(marker) >= 2 for marker in MARKERS)

    def test_more_than_six_lines_go_on_another_page(self):
        many = lines(*(series_of([float(height)] * 5) for height in range(8)))
        first = shown(Chart(), title="loss", lines=many, ended=True)
        assert "lines 1-6 of 8" in first
        assert "line 7" not in first
        assert "lines 7-8 of 8" in shown(Chart(), "full_stop", title="loss", lines=many, ended=True)
        assert "lines 7-8 of 8" in shown(Chart(), title="loss", lines=many, ended=False), "the page where points come"

    def test_a_diverged_loss_is_called_so_and_marked_where_it_happened(self):
        values = [5.0 - step / 20 for step in range(50)] + [math.nan] * 50
        text = shown(Chart(), title="loss", lines=lines(series_of(values)))
        assert "diverged at 51" in text
        marked = next(row for row in text.splitlines()[1:] if "×" in row)
        assert marked.index("×") > len(marked) * 0.5
        assert marked.rstrip().endswith("×")

    def test_a_loss_that_recovered_is_told_with_its_value(self):
        text = shown(Chart(), title="loss", lines=lines(series_of([5.0, 4.0, math.inf, 3.0])))
        assert "line 0 3" in text
        assert "diverged at 3" in text

    def test_a_loss_that_never_was_a_number_draws_no_axis_and_does_not_crash(self):
        assert "diverged at 1" in shown(Chart(), title="loss", lines=lines(series_of([math.nan, math.nan])))

    def test_a_logarithmic_axis_leaves_out_what_is_not_above_zero(self):
        text = shown(Chart(), title="loss", lines=lines(series_of([0.0, 0.001, 1.0, 1000.0])), log=True)
        assert "log" in text.splitlines()[0]
        assert "0.001" in text

    def test_only_zeros_on_a_logarithmic_axis_do_not_crash(self):
        assert "loss" in shown(Chart(), title="loss", lines=lines(series_of([0.0, 0.0])), log=True)

    def test_over_time_the_ticks_are_times(self):
        text = shown(Chart(), title="loss", lines=lines(series_of([1.0] * 90)), by_time=True)
        assert "at work" in text
        assert "1 min" in text

    def test_without_points_it_says_why(self):
        assert "no points yet" in shown(Chart(), title="loss", lines=lines(Series()), empty="no points yet")

    def test_lines_that_have_ended_end_at_the_right_edge(self):
        values = [float(step) for step in range(1, 41)]
        growing, ended = (shown(Chart(), title="loss", lines=lines(series_of(values)), ended=ended) for ended in (False, True))
        ends = [max(row.find(MARKERS[0]) for row in text.splitlines()[1:]) for text in (growing, ended)]
        assert ends[0] < 0.9 * max(map(len, growing.splitlines())) and ends[1] >= max(map(len, ended.splitlines())) - 1

    def test_names_from_files_cannot_steer_the_terminal(self):
        text = shown(Chart(), title="[red]loss", lines=[Line("a\x1b[2J\nb[/]", series_of([1.0]))])
        assert "[red]loss" in text
        assert "a�[2J b[/]" in text

    @pytest.mark.parametrize("size", [(20, 4), (24, 5), (40, 8), (200, 60)])
    def test_it_fits_any_size(self, size):
        text = shown(Chart(), title="loss", lines=lines(*(series_of([1.0, 2.0, math.nan]) for _ in range(7))), size=size)
        assert text.startswith("loss")
        assert max(map(len, text.splitlines())) <= size[0]

    def test_the_point_inspected_moves_by_keys_and_tells_its_raw_value(self):
        chart = Chart()
        values = [float(step) for step in range(1, 101)]
        text = shown(chart, "left", "left", "shift+left", title="loss", lines=lines(series_of(values)), limit=100)
        assert chart.cursor is not None
        assert f"at {chart.cursor:,.0f}" in text
        assert "line 0 " + chart.value_at(chart.lines[0]) in text
        assert chart.value_at(chart.lines[0]) == number_text(chart.cursor)
        assert chart.cursor < 90

    def test_escape_leaves_the_point(self):
        chart = Chart()
        shown(chart, "left", "escape", title="loss", lines=lines(series_of([1.0, 2.0])))
        assert chart.cursor is None

    def test_a_place_that_stands_for_many_points_tells_their_range(self):
        chart = Chart()
        shown(chart, "left", "shift+left", title="loss", lines=lines(series_of([1.0, 2.0] * 10_000)), limit=20_000)
        assert chart.value_at(chart.lines[0]) == "1-2"

    def test_a_click_inspects_that_point(self):
        chart = Chart()

        async def click():
            app = ChartApp(chart)
            async with app.run_test(size=(80, 16)) as pilot:
                chart.show("loss", lines(series_of([float(step) for step in range(1, 101)])), limit=100)
                await pilot.click(Chart, offset=(43, 8))
                return chart.cursor

        assert run_async(click()) == pytest.approx(50, abs=2)


class TestWhatIsDrawnAnew:
    def test_nothing_changes_nothing_is_drawn_and_a_new_point_touches_few_cells(self, monkeypatch):
        touched = []
        refresh = Cells.refresh

        def watch(self, *regions, **more):
            touched.extend(regions or [self.size.region])
            return refresh(self, *regions, **more)

        series = series_of([100.0 / step for step in range(1, 160)])
        chart = Chart()

        async def look():
            app = ChartApp(chart)
            async with app.run_test(size=(80, 16)) as pilot:
                chart.show("loss", lines(series), limit=1000)
                await pilot.pause()
                monkeypatch.setattr(Cells, "refresh", watch)
                chart.show("loss", lines(series), limit=1000)
                assert touched == []
                for step in range(160, 170):
                    series.append(step, float(step), 100.0 / step)
                chart.show("loss", lines(series), limit=1000)
                return sum(region.area for region in touched)

        assert 0 < run_async(look()) < 60

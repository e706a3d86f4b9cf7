"""Append-only logs: what a writer promises and what a reader survives."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import RunError
from engine.runs import events
from engine.runs.events import (
    EventLog,
    Metrics,
    MetricsWriter,
    Tail,
    last_lifecycle,
    read_all,
    read_metrics,
    read_tail,
    without_rewinds,
    write_heartbeat,
)

ROOT = str(Path(__file__).resolve().parents[2])


def test_events_reach_the_file_at_once_and_in_order(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("run_started")
    log.append("stage_started", stage="squeeze", step="resnet18")
    found = read_all(path)
    assert [item["event"] for item in found] == ["run_started", "stage_started"]
    assert found[1]["step"] == "resnet18"
    assert abs(found[0]["t"] - time.time()) < 5
    log.close()
    with pytest.raises(RunError, match="closed"):
        log.append("late")


def test_threads_may_share_an_event_log_without_tearing_lines(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        threads = [threading.Thread(target=lambda n=n: [log.append("log", text=f"{n}" * 200) for _ in range(100)]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    tail = Tail(path)
    assert len(tail.read()) == 400
    assert tail.bad_lines == 0


def test_event_text_with_escapes_newlines_and_undecodable_names_stays_one_line(tmp_path):
    path = tmp_path / "events.jsonl"
    text = "a\nb\x1b[31m[bold]\udcff\u2028é"
    with EventLog(path) as log:
        log.append("log", text=text, path=tmp_path)
    assert path.read_bytes().count(b"\n") == 1
    assert read_all(path)[0]["text"] == text
    assert read_all(path)[0]["path"] == str(tmp_path)


def test_a_writer_ends_the_torn_line_of_a_killed_predecessor(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event":"run_started"}\n{"event":"lo')
    with EventLog(path) as log:
        log.append("run_started")
    tail = Tail(path)
    assert [item["event"] for item in tail.read()] == ["run_started", "run_started"]
    assert tail.bad_lines == 1


def test_a_torn_last_line_is_kept_back_until_it_is_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_bytes(b'{"a":1}\n{"a":')
    assert tail.read() == [{"a": 1}]
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(b"2}\n")
    assert tail.read() == [{"a": 2}]
    assert tail.bad_lines == 0


def test_garbage_lines_are_skipped_and_counted(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\nnot json\n\xff\xfe\x00\n\n[1,2]\n' + b"[" * 100_000 + b'\n{"a":2}\n')
    tail = Tail(path)
    assert tail.read() == [{"a": 1}, {"a": 2}]
    assert tail.bad_lines == 4


def test_a_line_without_end_is_given_up_rather_than_read_for_ever(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\n' + b"x" * (events.LONGEST_LINE + 5))
    tail = Tail(path)
    assert tail.read() == [{"a": 1}]
    assert tail.offset == path.stat().st_size
    with path.open("ab") as file:
        file.write(b'xx\n{"a":2}\n')
    assert tail.read() == [{"a": 2}]


@pytest.mark.parametrize("replace", [True, False], ids=["replaced", "shrunk"])
def test_a_replaced_or_shrunk_file_is_read_anew(tmp_path, replace):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n')
    tail = Tail(path)
    tail.read()
    if replace:
        other = tmp_path / "other"
        other.write_bytes(b'{"b":1}\n{"b":2}\n{"b":3}\n')
        other.replace(path)
    else:
        path.write_bytes(b'{"b":1}\n')
    assert tail.read()[0] == {"b": 1}
    assert tail.restarts == 1


def test_reading_in_pieces_gives_the_same_as_reading_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "LONGEST_LINE", 100)
    path = tmp_path / "log.jsonl"
    rows = [{"n": n, "text": "x" * (n % 40)} for n in range(500)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tail, found = Tail(path), []
    while piece := tail.read(limit=128):
        assert len(piece) < 20
        found += piece
    assert found == rows
    assert found == read_all(path)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 17, 1000])
def test_read_tail_gives_only_lines_that_lie_wholly_in_the_last_bytes(tmp_path, size):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n{"a":3}\n')  # 8 bytes a line
    assert read_tail(path, size) == [{"a": n} for n in (1, 2, 3)][3 - min(size // 8, 3) :]


def test_a_tail_from_the_end_goes_on_with_what_comes(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a":1}\n' * 100_000 + b'{"a":2}\n')
    tail = Tail(path, last_bytes=12)
    assert tail.read() == [{"a": 2}]
    with path.open("ab") as file:
        file.write(b'{"a":3}\n')
    assert tail.read() == [{"a": 3}]


def test_metrics_keep_nan_and_infinities_in_valid_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(3, {"loss": math.nan, "bn": math.inf, "tv": -math.inf, "l2": 1})

    def refuse(word):
        raise AssertionError(word)

    assert json.loads(path.read_text(), parse_constant=refuse)["k"] == {"loss": "NaN", "bn": "Infinity", "tv": "-Infinity", "l2": 1.0}
    values = read_metrics(read_all(path))[0].values
    assert math.isnan(values["loss"])
    assert (values["bn"], values["tv"], values["l2"]) == (math.inf, -math.inf, 1.0)


def test_metrics_of_another_shape_are_left_out():
    rows = read_metrics(
        [
            {"s": 1, "k": {"loss": "high", "ok": 2, "flag": True}},
            {"s": "x", "k": {}},
            {"k": {"a": 1}},
            {"s": 2, "k": 3},
            {"s": math.nan, "k": {}},
        ]
    )
    assert rows == [Metrics(0.0, 1, {"ok": 2.0})]


def test_metrics_wait_at_most_a_moment_even_when_no_more_come(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "FLUSH_SECONDS", 0.05)
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write(1, {"loss": 1.0})
    assert path.stat().st_size == 0
    until = time.monotonic() + 5
    while path.stat().st_size == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert read_metrics(read_all(path))[0].step == 1
    writer.close()


def test_metrics_are_written_at_64_kilobytes_without_waiting(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in range(2000):
        writer.write(step, {"loss": 0.123456789, "another": 0.987654321})
    assert path.stat().st_size >= 64 * 1024
    assert path.read_bytes().endswith(b"\n")
    writer.close()
    writer.close()
    assert len(read_all(path)) == 2000


def test_a_killed_writer_loses_at_most_the_last_second(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom engine.runs.events import MetricsWriter\n"
        "writer = MetricsWriter(Path(sys.argv[1]))\nwriter.write(1, {'a': 1})\ntime.sleep(1.3)\nwriter.write(2, {'a': 2})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, env={**os.environ, "PYTHONPATH": ROOT})
    assert [row.step for row in read_metrics(read_all(path))] == [1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    writer = MetricsWriter(path)
    writer.write(1, {"loss": 1.0})
    with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl: No space left"):
        writer.flush()


def test_rows_superseded_by_a_resume_are_dropped():
    rows = [Metrics(0, step, {"life": 1.0}) for step in (1, 2, 3, 4, 5)] + [Metrics(0, step, {"life": 2.0}) for step in (3, 4)]
    assert [(row.step, row.values["life"]) for row in without_rewinds(rows)] == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_two_rows_of_one_step_both_stay():
    rows = [Metrics(0, 1, {"loss": 1.0}), Metrics(0, 1, {"top1": 2.0})]
    assert without_rewinds(rows) == rows


def test_the_last_lifecycle_event_is_found_behind_other_events_and_a_torn_line(tmp_path):
    path = tmp_path / "events.jsonl"
    assert last_lifecycle(path) is None
    with EventLog(path) as log:
        log.append("run_stopped")
        log.append("run_started")
        for _ in range(50):
            log.append("log", text='"run_finished"')
    with path.open("ab") as file:
        file.write(b'{"event":"run_fin')
    assert last_lifecycle(path)["event"] == "run_started"


def test_the_heartbeat_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "heartbeat.json"
    for seq in range(3):
        write_heartbeat(path, {"t": 1.0, "seq": seq, "rate": math.nan})
    assert json.loads(path.read_text()) == {"t": 1.0, "seq": 2, "rate": "NaN"}
    assert [item.name for item in tmp_path.iterdir()] == ["heartbeat.json"]
    with pytest.raises(RunError, match="cannot write"):
        write_heartbeat(tmp_path / "missing" / "heartbeat.json", {})

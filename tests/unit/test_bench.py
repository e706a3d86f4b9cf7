"""`edc bench`: what it measures, what it refuses, its table, and that the README's table is of the shape that it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.bench.cases import LABELLERS, Choice, cases, choice, memory_cases
from engine.commands.bench_text import BEGIN, END, HEADERS, markdown, milliseconds, replaced, rows_of
from engine.errors import UserError

README = Path(__file__).parents[2] / "README.md"
MACHINE = {"device": "cpu", "device_name": "A processor", "threads": 1, "torch": "2.0", "rounds": 5, "quick": False}
WHAT = {"stage": "synthesise", "variant": "logit_ema", "network": "resnet18", "precision": "float32", "batch": 100}
TIMES = {"bare": 0.5, "real": 0.8, "ratio": 1.6, "ratio_low": 1.55, "ratio_high": 1.62, "images_per_second": 125.0}
CASE = WHAT | TIMES | {"limit": 1.75, "met": True}
MEMORY = WHAT | {"limit": 1.5, "bare_bytes": 1 << 30, "real_bytes": 3 << 29, "ratio": 1.5, "met": True}
TAKEN = {"float32 channels_last": 0.5, "bfloat16 channels_last": 0.25}
PRECISION = {"model": "resnet18", "auto": "float32 channels_last", "fastest": "bfloat16 channels_last", "right": False, "seconds": TAKEN}
START = {"seconds": [4.0, 4.4, 4.1], "median": 4.1, "limit": 6.0, "met": True}
FOUND = MACHINE | {"cases": [CASE], "memory": [MEMORY], "precision": [PRECISION], "warm_start": START}


def bench(folder, *options):
    """The command's end, output and complaints."""
    command = [sys.executable, "-m", "engine.cli", "bench", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


class TestWhatIsMeasured:
    def test_the_limits_are_those_of_the_table(self):
        found = {(case.stage, case.variant, case.precision): case.limit for case in cases(Choice())}
        assert found == {
            ("synthesise", "", "float32"): 1.35,
            ("synthesise", "logit_ema", "float32"): 1.75,
            ("synthesise", "", "bfloat16"): 1.5,
            ("synthesise", "logit_ema", "bfloat16"): 1.9,
            **{("statistics", "", precision): 1.2 for precision in ("float32", "bfloat16")},
            **{("evaluate", "", precision): 1.1 for precision in ("float32", "bfloat16")},
            **{("relabel", variant, precision): 1.1 for variant in ("stored", "online") for precision in ("float32", "bfloat16")},
        }

    def test_every_network_and_batch_of_the_table_is_there(self):
        found = [(case.stage, case.network, case.batch) for case in cases(Choice(precisions=("float32",))) if not case.variant]
        observers = ("resnet18", "wrn-16-2", "convnet-w128")
        wanted = [(stage, name, batch) for stage, batch in (("synthesise", 100), ("statistics", 256)) for name in observers]
        assert found == [*wanted, *(("evaluate", name, batch) for name in ("resnet18", "convnet-w128") for batch in (25, 100))]
        assert all(case.models == LABELLERS and len(LABELLERS) == 8 for case in cases(Choice(("relabel",))))

    def test_options_choose_parts_networks_and_precisions(self):
        asked = choice(["evaluate"], ["wrn-10-1"], ["bfloat16"], quick=False)
        assert [case.name for case in cases(asked)] == [f"evaluate wrn-10-1 bfloat16 batch {size}" for size in (25, 100)]
        assert {case.limit for case in memory_cases(asked)} == {1.5}

    @pytest.mark.parametrize(
        ("only", "models", "precisions", "wrong"),
        [
            (["evalute"], [], [], "--only: 'evalute' is unknown; did you mean evaluate?"),
            ([], ["resnet17"], [], "--models: "),
            ([], [], ["half"], "--precisions: 'half' is unknown; choose one of: float32, bfloat16, float16"),
        ],
    )
    def test_what_does_not_exist_is_refused_in_one_line(self, only, models, precisions, wrong):
        with pytest.raises(UserError) as error:
            choice(only, models, precisions, quick=False)
        assert str(error.value).startswith(wrong) and "\n" not in str(error.value)


class TestTable:
    def test_each_measurement_is_a_row_with_its_limit(self):
        ratio, memory, start = rows_of(FOUND)
        what = ["resnet18", "float32", "100"]
        assert ratio == ["synthesise logit_ema", *what, "500 ms", "800 ms", "1.60", "1.55-1.62", "1.75", "yes", "125", ""]
        assert memory == ["memory of synthesise logit_ema", *what, "1.0 GiB", "1.5 GiB", "1.50", "", "1.50", "yes", "", ""]
        assert start[5:10] == ["4.1 s", "", "4.0-4.4 s", "6 s", "yes"]
        assert rows_of(FOUND | {"cases": [CASE | {"share_of_peak": 0.42, "met": False}]})[0][-3:] == ["no", "125", "42 %"]

    def test_times_have_three_figures(self):
        assert [milliseconds(value) for value in (0.00042, 0.0123, 0.3401, 2.714)] == ["0.42 ms", "12.3 ms", "340 ms", "2.71 s"]

    def test_markdown_stands_between_its_marks_and_can_be_put_in_again(self):
        text = markdown(FOUND)
        assert text.startswith(BEGIN) and text.endswith(END)
        assert "but bfloat16 channels_last is 2.00 times as fast" in text
        assert "A processor, 1 thread, torch 2.0, median of 5 rounds in turn" in text
        document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
        assert replaced(document, text) == f"before\n{text}\nafter\n" == replaced(replaced(document, text), text)

    @pytest.mark.parametrize("document", ["no marks", f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
    def test_a_document_without_one_pair_of_marks_is_refused(self, document):
        with pytest.raises(UserError, match="once each"):
            replaced(document, "")

    def test_the_readmes_table_is_of_the_shape_that_is_written(self):
        text = README.read_text()
        table = text[text.index(BEGIN) : text.index(END)].splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")]
        assert table[1].startswith("Measured by `edc bench` on ")
        assert [name for name in HEADERS if name in rows[0]] == rows[0] and {"ratio", "at most", "met"} <= {*rows[0]}
        assert set(rows[1]) == {"---"} and all(len(row) == len(rows[0]) for row in rows)
        stages = {row[0].split()[0] for row in rows[2:]}
        assert stages == {"synthesise", "statistics", "relabel", "evaluate", "memory", "warm"}


class TestCommand:
    @pytest.mark.parametrize(
        ("options", "wrong"),
        [
            (["--only", "evalute"], "edc: --only: 'evalute' is unknown; did you mean evaluate?"),
            (["--device", "tpu"], "edc: --device: "),
            (["--precisions", "float16", "--device", "cpu"], "edc: --precisions: float16 needs cuda"),
            (["--repeats", "0"], "edc: Invalid value for '--repeats'"),
            (["--write", "missing.md"], "edc: --write: missing.md: cannot be read"),
        ],
    )
    def test_wrong_options_end_with_status_2_and_one_line(self, tmp_path, options, wrong):
        done = bench(tmp_path, *options)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith(wrong) and done.stderr.count("\n") == 1

    def test_json_has_every_number_of_a_quick_measurement(self, tmp_path):
        small = ["--quick", "--only", "evaluate", "--repeats", "1", "--precisions", "float32"]
        done = bench(tmp_path, *small, "--device", "cpu", "--threads", "1", "--json")
        found = json.loads(done.stdout)
        assert done.returncode in (0, 1), done.stderr
        assert [(case["network"], case["batch"]) for case in found["cases"]] == [("convnet-w32", 25), ("convnet-w32", 100)]
        assert all(case["real"] > 0 and case["bare"] > 0 and case["met"] == (case["ratio"] <= 1.1) for case in found["cases"])
        assert "measuring evaluate convnet-w32 float32 batch 25" in done.stderr and not found["interrupted"]

"""Findings about a run from its files and from what was measured: what is fine, what is worth a look, what is wrong, and why."""

import json
import subprocess
import sys

import pytest

from engine.project.resolve import resolve
from engine.runs.compare import Facts, flatten
from engine.runs.events import Metrics
from engine.runs.layout import Run
from engine.runs.verify import Answers, ImageFacts, Measured, ObserverFacts, findings, term_shares
from engine.runs.verify_results import student_quantile

CIFAR = {"dataset.name": "cifar10", "condense.method": "edc", "condense.ipc": 10}
CLASSES = [f"class {number}" for number in range(10)]


def values_of(**changes):
    given = CIFAR | {name.replace("__", "."): value for name, value in changes.items()}
    resolved, problems = resolve(given, resolution=32)
    assert problems == []
    return flatten(resolved.project.model_dump()) | {"frozen.classes": CLASSES, "frozen.resolution": 32}


def row(set_name, values, *, labels="online", over=None, best=None, protocol="published", student="resnet18"):
    mean = sum(values) / len(values)
    spread = {"mean": mean, "std": 1.0, "n": len(values), "values": list(values)}
    found = {"set": set_name, "student": student, "protocol": protocol, "labels": labels, "augmentation": True, "top1": spread}
    found |= {"seeds": list(range(len(values))), "best_on_test": spread | {"mean": mean if best is None else best}}
    return found | ({} if over is None else {"over_random": dict(zip(("mean", "std", "n"), over, strict=True))})


class Found:
    """The findings about a run made up here; `all` lists those of a check."""

    def __init__(self, folder, *, rows=(), values=None, measured=None, status="done", steps=None, select="last") -> None:
        summary = {"results": list(rows), "steps": steps or {"squeeze/a": {"status": "done"}}, "select": select}
        facts = Facts("run", "project", str(folder), status, values or values_of(), summary)
        self.list = findings(Run(folder, "run", "project"), facts, measured or Measured())

    def all(self, check):
        return [finding for finding in self.list if finding.check == check]

    def one(self, check):
        (finding,) = self.all(check)
        return finding


def write_metrics(folder, rows, step="4-synthesise/condensed"):
    (folder / "stages" / step).mkdir(parents=True)
    lines = [json.dumps({"t": 0, "s": number, "k": values}) for number, values in rows]
    (folder / "stages" / step / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def right(top1, *, best=None, by_chance=20.0, images=500, moved=()):
    return Answers(images, top1, top1 if best is None else best, by_chance, moved)


def test_whatever_is_worth_a_look_says_why(tmp_path):
    found = Found(tmp_path, rows=[row("condensed", [50, 60]), row("full", [40], labels="hard")], status="stopped", select="best_on_test")
    assert all((finding.verdict == "fine") == (finding.why == "") for finding in found.list)


def test_a_broken_summary_is_read_as_far_as_it_goes(tmp_path):
    facts = Facts(
        "run", "project", str(tmp_path), "failed", {}, {"results": [3, {"top1": None}, {"set": "noise", "top1": {}}], "steps": []}
    )
    found = findings(Run(tmp_path, "run", "project"), facts, Measured())
    assert [finding.check for finding in found if finding.verdict != "fine"] == ["run"]


class TestObservers:
    def verdict(self, folder, observer):
        return Found(folder, measured=Measured((observer,))).one("observer")

    def test_as_good_as_when_squeezed(self, tmp_path):
        found = self.verdict(tmp_path, ObserverFacts("resnet18", 90.2, right(90.0)))
        assert found.verdict == "fine"
        assert "resnet18: 90.0 % of 500 test images, 90.2 % when it was squeezed; chance is 10.0 %" in found.measured

    def test_another_accuracy_than_when_squeezed_is_wrong(self, tmp_path):
        assert self.verdict(tmp_path, ObserverFacts("resnet18", 90.0, right(80.0))).verdict == "wrong"

    def test_a_sample_may_differ_by_as_much_as_samples_do(self, tmp_path):
        assert self.verdict(tmp_path, ObserverFacts("resnet18", 50.0, right(46.0, images=500))).verdict == "fine"
        assert self.verdict(tmp_path, ObserverFacts("resnet18", 50.0, right(46.0, images=50_000))).verdict == "wrong"

    def test_chance_is_wrong_and_a_little_more_is_worth_a_look(self, tmp_path):
        assert self.verdict(tmp_path, ObserverFacts("resnet18", 11.0, right(11.0))).verdict == "wrong"
        assert self.verdict(tmp_path, ObserverFacts("resnet18", 20.0, right(20.0))).verdict == "look"

    def test_one_that_cannot_be_read(self, tmp_path):
        found = self.verdict(tmp_path, ObserverFacts("resnet18", 90.0, None, problem="it is torn"))
        assert (found.verdict, found.measured) == ("wrong", "resnet18: it is torn")

    def test_odd_batch_norm(self, tmp_path):
        observer = ObserverFacts("resnet18", 90.0, right(90.0), batch_norm="bn1: a running variance is negative")
        assert Found(tmp_path, measured=Measured((observer,))).one("batch norm").verdict == "wrong"

    def test_another_order_of_the_classes(self, tmp_path):
        answers = right(10.0, best=95.0, moved=(("cat", "dog"), ("dog", "cat")))
        found = Found(tmp_path, measured=Measured((ObserverFacts("resnet18", 10.0, answers),))).one("class order")
        assert found.verdict == "wrong" and "cat is called dog" in found.measured and "95.0 %" in found.measured

    def test_no_better_than_chance_in_any_order_is_no_matter_of_order(self, tmp_path):
        observer = ObserverFacts("resnet18", 10.0, right(10.0, best=21.0))
        assert Found(tmp_path, measured=Measured((observer,))).one("class order").verdict == "fine"

    def test_nothing_measured_says_why(self, tmp_path):
        found = Found(tmp_path, measured=Measured(problem="no dataset here"))
        assert found.one("observers").verdict == "look" and "no dataset here" in found.one("observers").measured


class TestImages:
    def about(self, folder, **facts):
        given = {"answers": right(99.0), "constant": 0, "extreme": 0.1, "extreme_real": 0.1, "across": 0, "within": 0} | facts
        return Found(folder, measured=Measured((), ImageFacts(100, **given)))

    def test_sound_ones(self, tmp_path):
        found = self.about(tmp_path)
        assert (found.one("images").verdict, found.one("classes of the images").verdict) == ("fine", "fine")

    @pytest.mark.parametrize(
        ("facts", "verdict"),
        [({"constant": 2}, "wrong"), ({"across": 2}, "wrong"), ({"within": 2}, "look"), ({"extreme": 0.5}, "look")],
    )
    def test_odd_ones(self, tmp_path, facts, verdict):
        assert self.about(tmp_path, **facts).one("images").verdict == verdict

    def test_black_ground_of_the_real_images_is_not_held_against_them(self, tmp_path):
        assert self.about(tmp_path, extreme=0.6, extreme_real=0.5).one("images").verdict == "fine"

    def test_images_that_observers_take_for_another_class(self, tmp_path):
        assert self.about(tmp_path, answers=right(30.0, best=31.0)).one("classes of the images").verdict == "look"
        assert self.about(tmp_path, answers=right(0.0, best=90.0)).one("classes of the images").verdict == "wrong"

    def test_images_whose_class_cannot_be_told_at_all(self, tmp_path):
        # Two standard errors of a chance of 10 % over 500 images are 2.7 points.
        assert self.about(tmp_path, answers=right(12.5)).one("classes of the images").verdict == "wrong"
        assert self.about(tmp_path, answers=right(13.0)).one("classes of the images").verdict == "look"


class TestLossTerms:
    def test_shares_are_of_the_weighted_terms(self):
        rows = [Metrics(0, 1, {"classification": 2.0, "matching": 300.0, "flatness": 4.0, "loss": 6.0})]
        values = {"match.weight": 0.01, "flatness.weight": 0.25}
        assert term_shares(rows, values) == pytest.approx({"matching": 3 / 6, "classification": 2 / 6, "flatness": 1 / 6})

    def test_a_fitted_weight_is_what_the_rest_of_the_loss_tells(self):
        rows = [Metrics(0, 1, {"classification": 2.0, "matching": 700.0, "loss": 4.0})]
        assert term_shares(rows, {"match.weight": "auto"}) == pytest.approx({"matching": 0.5, "classification": 0.5})

    def test_one_that_dominates_is_named_and_auto_is_offered(self, tmp_path):
        iterations = 40
        rows = [(step, {"classification": 1.0, "matching": 2000.0, "loss": 21.0}) for step in range(1, 2 * iterations + 1)]
        write_metrics(tmp_path, rows)
        found = Found(tmp_path, values=values_of(synthesise__iterations=iterations)).one("loss terms")
        assert found.verdict == "look" and "first matching 95 %, classification 5 %" in found.measured
        assert found.why.startswith("matching decides") and 'match.weight = "auto"' in found.why and "0.01" in found.why

    def test_first_and_last_are_those_of_every_batch(self, tmp_path):
        rows = []
        for batch in range(2):
            rows += [
                (batch * 40 + step, {"classification": 1.0, "matching": 100.0 if step <= 2 else 0.0, "loss": 1.0}) for step in range(1, 41)
            ]
        write_metrics(tmp_path, rows)
        found = Found(tmp_path, values=values_of(synthesise__iterations=40)).one("loss terms")
        assert "first classification 50 %, matching 50 %; last classification 100 %" in found.measured

    def test_a_loss_that_is_no_number(self, tmp_path):
        write_metrics(tmp_path, [(1, {"loss": 1.0}), (2, {"loss": "NaN"})])
        found = Found(tmp_path).one("losses")
        assert found.verdict == "wrong" and "from step 2 on" in found.measured

    def test_one_that_was_passed_over_after_a_resume_is_none(self, tmp_path):
        write_metrics(tmp_path, [(1, {"loss": 1.0}), (2, {"loss": "NaN"}), (1, {"loss": 1.0}), (2, {"loss": 0.5})])
        assert Found(tmp_path).one("losses").verdict == "fine"


class TestAverages:
    def with_ema(self, folder, *students):
        for number, (asked, used, updates) in enumerate(students):
            path = folder / "stages/6-evaluate" / f"condensed-{number}" / "done.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"settings": {"evaluate.ema": asked}, "result": {"ema": used, "updates": updates}}))
        return {finding.verdict: finding for finding in Found(folder).all("averaged student")}

    def test_within_the_cap(self, tmp_path):
        assert set(self.with_ema(tmp_path, (0.99, 0.99, 1000))) == {"fine"}

    def test_capped(self, tmp_path):
        found = self.with_ema(tmp_path, (0.99, 0.95, 200), (0.99, 0.95, 200))
        assert set(found) == {"look"} and "0.95 over 200 updates (0.99 was asked for)" in found["look"].measured

    def test_not_capped_as_older_runs_were_not(self, tmp_path):
        assert set(self.with_ema(tmp_path, (0.999, 0.999, 200))) == {"wrong"}

    def test_none(self, tmp_path):
        assert self.with_ema(tmp_path, (0.0, 0.0, 200)) == {}


class TestControls:
    def test_noise_at_chance_is_fine_above_it_worth_a_look_and_as_good_as_the_images_wrong(self, tmp_path):
        for floor, verdict in ((11, "fine"), (42, "look"), (59.9, "wrong")):
            assert Found(tmp_path, rows=[row("condensed", [60, 60]), row("noise", [floor, floor])]).one("label floor").verdict == verdict

    def test_no_noise_is_worth_a_look_where_labels_are_soft(self, tmp_path):
        assert Found(tmp_path, rows=[row("condensed", [60])]).one("label floor").verdict == "look"
        trained = Found(tmp_path, rows=[row("condensed", [60])], values=values_of(labels__teacher_batchnorm="train"))
        assert "42 %" in trained.one("label floor").why
        hard = Found(tmp_path, rows=[row("condensed", [60], labels="hard")], values=values_of(evaluate__loss="ce"))
        assert hard.all("label floor") == []

    @pytest.mark.parametrize(
        ("over", "verdict", "words"),
        [
            ((3.0, 1.0, 4), "fine", "+3.00 ± 1.00 points over 4 paired seeds; chance reaches 1.59"),
            ((3.0, 1.0, 2), "look", "chance reaches 8.98"),
            ((-3.0, 1.5, 3), "look", "cannot be told"),
            ((0.9, 1.0, 4), "look", "cannot be told"),
            ((-3.0, 1.0, 4), "look", "random real images are better"),
            ((3.0, None, 1), "look", "one seed"),
        ],
    )
    def test_the_difference_to_random_is_held_against_chance(self, tmp_path, over, verdict, words):
        found = Found(tmp_path, rows=[row("condensed", [60, 61], over=over)]).one("over random")
        assert found.verdict == verdict and words in found.measured + found.why

    @pytest.mark.parametrize(("count", "printed"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262)])
    def test_chance_is_student_t_as_tables_print_it(self, count, printed):
        assert student_quantile(count) == pytest.approx(printed, abs=5e-4)

    def test_hard_labels_have_a_line_of_their_own(self, tmp_path):
        rows = [row("condensed", [60], over=(3.0, 1.0, 4)), row("condensed", [60], labels="hard", over=(-3.0, 1.0, 4))]
        assert [finding.verdict for finding in Found(tmp_path, rows=rows).all("over random")] == ["fine", "look"]

    def test_no_random_row(self, tmp_path):
        assert "evaluate.controls" in Found(tmp_path, rows=[row("condensed", [60])]).one("over random").why

    def test_the_best_on_test_far_above_the_final(self, tmp_path):
        assert Found(tmp_path, rows=[row("condensed", [60], best=62.5)]).one("best on test").verdict == "look"
        assert Found(tmp_path, rows=[row("condensed", [60], best=60.5)]).one("best on test").verdict == "fine"
        assert Found(tmp_path, rows=[row("condensed", [60])], select="best_on_test").one("best on test").verdict == "look"

    def test_what_choice_by_test_images_makes_of_noise(self, tmp_path):
        rows = [row("condensed", [60, 60]), row("noise", [10, 10], best=19.0)]
        found = Found(tmp_path, rows=rows)
        assert found.one("label floor").verdict == "look" and "19.0 % at its best on test" in found.one("label floor").measured
        assert found.one("best on test").verdict == "fine"

    def test_with_many_classes_a_few_points_above_chance_are_much(self, tmp_path):
        values = values_of() | {"frozen.classes": [str(number) for number in range(100)]}
        for floor, verdict in ((1.5, "fine"), (4.0, "look")):
            found = Found(tmp_path, rows=[row("condensed", [30, 30]), row("noise", [floor, floor])], values=values)
            assert found.one("label floor").verdict == verdict

    @pytest.mark.parametrize(
        ("herding", "verdict", "words"),
        [
            # Differences -5, -6, -7: mean -6, deviation 1; of three, t is 4.303, so that chance reaches 4.303 / sqrt(3) = 2.48.
            ([65, 66, 67], "look", "-6.00 ± 1.00 points over 3 paired seeds against herding, the best of 2"),
            ([65, 66, 67], "look", "chance reaches 2.48"),
            ([65, 66, 67], "look", "higher on average: herding"),
            ([55, 54, 53], "fine", "+6.00 ± 1.00 points over 3 paired seeds against herding"),
            ([60, 62, 58], "look", "within chance: it cannot be told from herding"),
        ],
    )
    def test_a_coreset_that_is_as_good_is_named(self, tmp_path, herding, verdict, words):
        rows = [row("condensed", [60, 60, 60]), row("herding", herding), row("easy", [40, 40, 40])]
        found = Found(tmp_path, rows=rows).one("over coresets")
        assert found.verdict == verdict and words in found.measured + found.why

    def test_a_coreset_is_held_against_the_set_of_its_own_labels_alone(self, tmp_path):
        assert Found(tmp_path, rows=[row("condensed", [60]), row("herding", [70], labels="hard")]).all("over coresets") == []

    def test_only_seeds_that_both_were_trained_with_are_compared(self, tmp_path):
        found = Found(tmp_path, rows=[row("condensed", [60, 62, 64]), row("herding", [63, 66])]).one("over coresets")
        assert "-3.50 ± 0.71 points over 2 paired seeds" in found.measured

    def test_real_images_in_the_same_bytes_against_the_set_with_its_best_labels(self, tmp_path):
        rows = [row("condensed", [60, 60]), row("condensed", [50, 50], labels="hard")]
        for real, verdict, gap in (([70, 72], "look", "-11.00"), ([55, 55], "fine", "+5.00")):
            found = Found(tmp_path, rows=[*rows, row("equal-bytes", real, labels="hard") | {"images": 1280}]).one("equal bytes")
            assert found.verdict == verdict
            assert found.measured.startswith(f"resnet18 published online: {gap}") and "1,280 real images" in found.measured

    def test_a_learning_rate_at_the_edge_of_what_was_searched(self, tmp_path):
        values = values_of(evaluate__search_learning_rates=[1e-4, 1e-3, 1e-2])
        for rate, verdict in ((1e-3, "fine"), (1e-2, "look")):
            found = Found(tmp_path, rows=[row("condensed", [60]) | {"learning_rate": rate}], values=values).one("learning rate")
            assert found.verdict == verdict
        assert "0.01 for 1 of 1 results" in found.measured

    def test_a_whole_dataset_that_teaches_less_than_the_condensed_set(self, tmp_path):
        for whole, verdict in ((50, "look"), (80, "fine")):
            rows = [row("condensed", [60], labels="hard"), row("full", [whole], labels="hard")]
            assert Found(tmp_path, rows=rows).one("whole dataset").verdict == verdict

    def test_a_whole_dataset_that_teaches_less_than_a_part_of_it(self, tmp_path):
        rows = [row("condensed", [40], labels="hard"), row("herding", [60], labels="hard"), row("full", [50], labels="hard")]
        found = Found(tmp_path, rows=rows).one("whole dataset")
        assert found.verdict == "look" and "60.0 % from herding" in found.measured


class TestPublished:
    """EDC's Table 1 prints 79.1 ± 0.3 for a ResNet-18 on CIFAR-10 at 10 images per class."""

    def gap(self, folder, top1, **changes):
        return Found(folder, rows=[row("condensed", [top1]), row("condensed", [99.0], labels="hard")], values=values_of(**changes))

    def test_within_the_printed_deviation(self, tmp_path):
        found = self.gap(tmp_path, 78.4).one("published")
        assert found.verdict == "fine" and "78.4 %, published 79.1 ± 0.3, -0.7 points" in found.measured

    def test_below(self, tmp_path):
        assert self.gap(tmp_path, 75.0).one("published").verdict == "look"

    def test_far_below_with_the_published_settings_is_wrong_and_with_others_explained(self, tmp_path):
        assert self.gap(tmp_path, 60.0).one("published").verdict == "wrong"
        assert self.gap(tmp_path, 60.0, squeeze__epochs=1).one("published").verdict == "look"

    def test_what_differs_from_the_published_protocol_is_named(self, tmp_path):
        assert self.gap(tmp_path, 79.0).one("protocol").verdict == "fine"
        found = self.gap(tmp_path, 79.0, squeeze__epochs=1, evaluate__epochs=7).one("protocol")
        assert found.verdict == "look" and "squeeze.epochs = 1; evaluate.epochs = 7" in found.measured
        assert found.measured.startswith("2 settings differ")

    def test_students_seeds_and_files_make_no_other_protocol(self, tmp_path):
        changes = {"evaluate__students": ["resnet50"], "evaluate__seeds": [7], "evaluate__controls": [], "evaluate__protocol": "both"}
        assert Found(tmp_path, values=values_of(**changes)).one("protocol").verdict == "fine"

    def test_a_dataset_without_a_figure(self, tmp_path):
        found = Found(tmp_path, rows=[row("condensed", [60])], values=values_of(condense__ipc=7))
        assert found.one("published").verdict == "fine" and "nothing" in found.one("published").measured


def test_no_torch_is_needed():
    code = "import engine.runs.verify, engine.commands.verify, sys; print([name for name in ('torch', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

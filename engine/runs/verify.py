"""Is something wrong with a run's number? What its files and its networks say, as findings: fine, worth a look, or wrong.

Everything here reads plain files; what needs the networks themselves is measured by `engine.stages.verify` and handed in. Accuracies are
in percent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.project.protocols import HARD, PUBLISHED
from engine.project.published import Figure, changed_settings, held_against, table_label
from engine.project.warnings import highest_ema
from engine.runs.compare import Facts, Spread
from engine.runs.events import Metrics, number, read_all, read_metrics, without_rewinds
from engine.runs.layout import Run, read_object, tables
from engine.runs.results import alike
from engine.runs.text import printable

Verdict = Literal["fine", "look", "wrong"]
FINE, LOOK, WRONG = "fine", "look", "wrong"

SMALL_SKILL = 0.2  # of the way from chance to 100 %, below which an observer has learnt little
CHANGED_POINTS = 1.0  # by which an accuracy may differ when it is measured again in another precision
PERMUTED_POINTS = 10.0  # that another order of the classes must gain,
CHANCE_POINTS = 5.0  # and this much more than it gains of answers without knowledge; also what noise may lie above chance
OWN_CLASS = 50.0  # % of the condensed images that observers should take for their own class
DOMINANT = 0.9  # share of a loss term that leaves the others nothing to say
ENDS = 20  # the first and last iterations are this part of a batch's
BEST_POINTS = 1.0  # by which the best on test may lie above the final measurement
TIED_POINTS = 1.0  # published results that differ by less are the same
FAR_POINTS = 10.0  # below a published figure is more than a protocol explains
EXTREME_SHARE = 0.25  # of pixels at 0 or 255 beyond what real images have
STANDARD_ERRORS = 2.0
SHOWN = 8  # names in a line


@dataclass(frozen=True)
class Finding:
    """What one check found: its verdict, what was measured, and why it matters, each in plain words."""

    check: str
    verdict: Verdict
    measured: str
    why: str


@dataclass(frozen=True)
class Answers:
    """How a network names images whose class is known: percent right, and right under the order of classes that fits them best.

    `by_chance` is what the best order would make of as many answers without knowledge; `moved` are pairs of names, a class and what
    most of its images are called.
    """

    images: int
    top1: float
    best: float
    by_chance: float
    moved: tuple[tuple[str, str], ...] = ()

    @property
    def permuted(self) -> bool:
        """Say whether the network knows its classes, by other names."""
        beyond_chance = self.best > self.by_chance + CHANCE_POINTS
        return beyond_chance and (self.best >= self.top1 + PERMUTED_POINTS or len(self.moved) > 1)


@dataclass(frozen=True)
class ObserverFacts:
    """A squeezed network as it is now: `recorded` is its test accuracy when it was squeezed; `problem` why it could not be measured."""

    name: str
    recorded: float | None
    answers: Answers | None
    batch_norm: str = ""  # what is odd about its batch-norm layers
    problem: str = ""


@dataclass(frozen=True)
class ImageFacts:
    """The condensed images as they are now; `answers` are the label observers', None where none is squeezed."""

    images: int
    answers: Answers | None
    constant: int
    extreme: float  # share of pixels at 0 or 255
    extreme_real: float  # the same of real images
    across: int  # images that are also there under another class
    within: int  # images that are there twice under one class


@dataclass(frozen=True)
class Measured:
    """What was measured with the networks; `problem` says why nothing could be."""

    observers: tuple[ObserverFacts, ...] = ()
    images: ImageFacts | None = None
    problem: str = ""


def findings(run: Run, facts: Facts, measured: Measured) -> list[Finding]:
    """Return the findings about a run, finished or not, in the order in which a number comes about."""
    names = facts.values.get("frozen.classes")
    chance = 100 / len(names) if isinstance(names, list) and names else 0.0
    results = facts.summary.get("results")
    rows = [row for row in results if isinstance(row, dict) and _spread(row)] if isinstance(results, list) else []
    return [
        *_of_state(facts),
        *_of_observers(measured, chance),
        *_of_images(measured.images, chance),
        *_of_terms(run, facts.values),
        *_of_losses(run),
        *_of_averages(run),
        *_of_floor(rows, chance, facts.values),
        *_of_best(rows, facts.summary),
        *_of_whole(rows),
        *_over_random(rows),
        *_of_published(rows, facts.values),
    ]


def _of_state(facts: Facts) -> Iterator[Finding]:
    steps = tables(facts.summary.get("steps"))
    done = sum(step.get("status") == "done" for step in steps.values())
    if facts.status == "done":
        yield Finding("run", FINE, f"done, {done} steps", "")
    else:
        yield Finding(
            "run",
            LOOK,
            f"{facts.status}, {done} of {len(steps)} steps done",
            "what follows is about what there is; accuracies of some seeds or controls may still be missing",
        )


def _of_observers(measured: Measured, chance: float) -> Iterator[Finding]:
    """Yield what is to be said of each observer, and whether another order of the classes would explain its answers."""
    if measured.problem:
        yield Finding("observers", LOOK, f"not measured again: {measured.problem}", "class order and teachers could not be checked")
    for observer in measured.observers:
        yield _of_observer(observer, chance)
        if observer.batch_norm:
            yield Finding(
                "batch norm",
                WRONG,
                f"{observer.name}: {observer.batch_norm}",
                "matching and labels rest on these running statistics; squeeze it anew with `edc run --fresh`",
            )
    asked = {observer.name: observer.answers for observer in measured.observers if observer.answers}
    if asked:
        yield _of_order(
            "class order", asked, "the labels of its images and of the dataset are not in one order: a class's images get another's labels"
        )


def _of_observer(observer: ObserverFacts, chance: float) -> Finding:
    check, answers = "observer", observer.answers
    if answers is None:
        return Finding(
            check, WRONG, f"{observer.name}: {observer.problem}", "what it labelled and what was matched to it cannot be trusted"
        )
    was = "" if observer.recorded is None else f", {observer.recorded:.1f} % when it was squeezed"
    said = f"{observer.name}: {answers.top1:.1f} % of {answers.images:,} test images{was}; chance is {chance:.1f} %"
    error = 100 * math.sqrt(max(chance, 1.0) / 100 * (1 - max(chance, 1.0) / 100) / answers.images)
    if answers.top1 <= chance + 3 * error:
        return Finding(check, WRONG, said, "it knows nothing of the classes, so neither its labels nor its statistics mean anything")
    if observer.recorded is not None:
        spread = 300 * math.sqrt(observer.recorded / 100 * (1 - observer.recorded / 100) / answers.images)
        if abs(answers.top1 - observer.recorded) > max(CHANGED_POINTS, spread):
            return Finding(check, WRONG, said, "its file or the test images have changed since; squeeze it anew with `edc run --fresh`")
    if (answers.top1 - chance) / (100 - chance) < SMALL_SKILL:
        return Finding(check, LOOK, said, "it has learnt little, and teaches no more than that; use more squeeze.epochs")
    return Finding(check, FINE, said, "")


def _of_order(check: str, asked: Mapping[str, Answers], why: str) -> Finding:
    """Say whether another order of the classes explains the answers of networks better."""
    permuted = {name: answers for name, answers in asked.items() if answers.permuted}
    if not permuted:
        return Finding(check, FINE, "no other order of the classes explains the answers better", "")
    name, answers = next(iter(permuted.items()))
    moved = [f"{one} is called {other}" for one, other in answers.moved]
    said = f"{answers.top1:.1f} % right, {answers.best:.1f} % in another order of the classes ({name}): {_listed(moved)}"
    return Finding(check, WRONG, said.removesuffix(": "), why)


def _of_images(images: ImageFacts | None, chance: float) -> Iterator[Finding]:
    """Yield what is to be said of the condensed images."""
    if images is None:
        return
    if images.answers is not None:
        answers = images.answers
        said = f"observers take {answers.top1:.0f} % of {images.images:,} images for their own class; chance is {chance:.1f} %"
        if answers.permuted:
            yield _of_order(
                "classes of the images",
                {"label observers": answers},
                "the images are stored under other classes' numbers than observers know",
            )
        elif answers.top1 < OWN_CLASS:
            why = "with hard labels such images teach the wrong thing; soft labels hide it, as they would on noise"
            yield Finding("classes of the images", LOOK, said, why)
        else:
            yield Finding("classes of the images", FINE, said, "")
    problems = []
    if images.constant:
        problems.append((WRONG, f"{images.constant:,} are of one colour", "they show nothing; look at the contact sheet"))
    if images.across:
        problems.append((WRONG, f"{images.across:,} are also there under another class", "one of the two is labelled wrongly"))
    if images.within:
        problems.append((LOOK, f"{images.within:,} are there twice", "the set is smaller than its images per class say"))
    if images.extreme > images.extreme_real + EXTREME_SHARE:
        said = f"{100 * images.extreme:.0f} % of the pixels are at 0 or 255, of real images {100 * images.extreme_real:.0f} %"
        problems.append((LOOK, said, "the optimisation runs into its bounds; lower synthesise.learning_rate"))
    for verdict, said, why in problems:
        yield Finding("images", verdict, said, why)
    if not problems:
        yield Finding(
            "images", FINE, f"{images.images:,}, none constant or twice there, {100 * images.extreme:.0f} % of pixels at 0 or 255", ""
        )


def _of_terms(run: Run, values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the share of each loss term at the first and the last iterations of synthesis."""
    path = next(run.stages.glob("*-synthesise/condensed/metrics.jsonl"), None)
    if path is None:
        return
    rows = without_rewinds(read_metrics(read_all(path)))
    iterations = int(number(values.get("synthesise.iterations")) or 0)
    if not rows or iterations < 1:
        return
    part = max(1, iterations // ENDS)
    first = term_shares([row for row in rows if (row.step - 1) % iterations < part], values)
    last = term_shares([row for row in rows if (row.step - 1) % iterations >= iterations - part], values)
    said = "; ".join(f"{when} {_shares_text(shares)}" for when, shares in (("first", first), ("last", last)) if shares)
    if not said:
        return
    dominant = next((name for shares in (first, last) for name, share in shares.items() if share > DOMINANT and len(shares) > 1), None)
    if dominant is None:
        yield Finding("loss terms", FINE, said, "")
        return
    weight = number(values.get("match.weight"))
    if dominant in ("matching", "classification") and weight is not None:
        right = f'match.weight = "auto" makes matching and classification equal at first (it is {weight:g} here)'
    elif dominant in ("matching", "classification"):
        right = "they were made equal at first, so this is how the images developed"
    else:
        right = f"lower its weight in [{'prior' if dominant in ('tv', 'l2') else dominant}]"
    yield Finding("loss terms", LOOK, said, f"{dominant} decides nearly alone what the images become; {right}")


def term_shares(rows: Sequence[Metrics], values: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of each weighted term in the loss of synthesis, over rows of its metrics; {} where they tell none.

    `values` are the run's flat values. A matching weight that was fitted is taken from what the other terms leave of the loss.
    """
    weights = {
        "classification": 1.0,
        "flatness": number(values.get("flatness.weight")),
        "diversity": number(values.get("diversity.weight")),
    }
    weights |= {"tv": number(values.get("prior.tv")), "l2": number(values.get("prior.l2"))}
    sums: dict[str, float] = {}
    for row in rows:
        terms = {name: (weight or 0.0) * row.values[name] for name, weight in weights.items() if name in row.values}
        weight = number(values.get("match.weight"))
        if "matching" in row.values:
            rest = row.values.get("loss", math.nan) - sum(terms.values())
            terms["matching"] = rest if weight is None else weight * row.values["matching"]
        for name, term in terms.items():
            if math.isfinite(term):
                sums[name] = sums.get(name, 0.0) + abs(term)
    total = sum(sums.values())
    return {name: term / total for name, term in sorted(sums.items(), key=lambda item: -item[1])} if total else {}


def _shares_text(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{printable(name)} {100 * share:.0f} %" for name, share in shares.items())


def _of_losses(run: Run) -> Iterator[Finding]:
    """Yield the first value of every log of metrics that is no number."""
    looked, found = 0, False
    for path in sorted(run.stages.glob("*/*/metrics.jsonl")):
        rows = without_rewinds(read_metrics(read_all(path)))
        looked += bool(rows)
        lost = next(((row.step, name) for row in rows for name, value in row.values.items() if not math.isfinite(value)), None)
        if lost is not None:
            found = True
            stage = path.parent.parent.name.partition("-")[2]
            said = f"{stage} {printable(path.parent.name)}: {printable(lost[1])} is no number from step {lost[0]:,} on"
            yield Finding("losses", WRONG, said, "everything after it is made of it; lower the learning rate of that stage")
    if looked and not found:
        yield Finding("losses", FINE, f"all values of {looked} {'logs' if looked > 1 else 'log'} are numbers", "")


def _of_averages(run: Run) -> Iterator[Finding]:
    """Yield the momenta of the averaged students against their numbers of updates, those of one verdict together."""
    told: dict[Verdict, dict[str, None]] = {}
    for path in sorted(run.stages.glob("*-evaluate/*/done.json")):
        done = tables(read_object(path)[0])
        settings, result = done.get("settings", {}), done.get("result", {})
        asked, used, updates = number(settings.get("evaluate.ema")), number(result.get("ema")), number(result.get("updates"))
        if not asked or used is None or not updates:
            continue
        verdict = WRONG if used > highest_ema(int(updates)) + 1e-9 else LOOK if used < asked else FINE
        capped = f" ({asked:g} was asked for)" if used < asked else ""
        told.setdefault(verdict, {})[f"{used:.4g} over {updates:,.0f} updates{capped}"] = None
    why = {
        FINE: "",
        LOOK: "capped at 1 - 10/updates, or the random initial weights would be measured; more epochs allow what was asked for",
        WRONG: "above 1 - 10/updates, so that the average still carries the random initial weights; lower evaluate.ema",
    }
    for verdict, momenta in told.items():
        yield Finding("averaged student", verdict, f"momentum {_listed(list(momenta), '; ')}", why[verdict])


def _of_floor(rows: Sequence[Mapping[str, Any]], chance: float, values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what labels teach on pure noise."""
    floors = [row for row in rows if row.get("set") == "noise"]
    if not floors and rows and values.get("evaluate.loss") != "ce":
        trains = values.get("labels.teacher_batchnorm") == "train"
        why = 'without it nothing tells what the labels teach alone; add "noise" to evaluate.controls'
        if trains:
            why = f"observers labelled by the batch's statistics, which teaches 42 % on the digits from pure noise; {why}"
        yield Finding("label floor", LOOK, "no noise control", why)
    for row in floors:
        floor, condensed = _spread(row), _spread(_partner(rows, row, "condensed"))
        if floor is None:
            continue
        said = f"{_told(row)}: {floor.mean:.1f} % from pure noise; chance is {chance:.1f} %"
        if floor.mean <= chance + CHANCE_POINTS:
            yield Finding("label floor", FINE, said, "")
        elif condensed and floor.mean >= condensed.mean - STANDARD_ERRORS * _error(condensed):
            why = (
                f"the labels teach as much without the images as with them ({condensed.mean:.1f} %): the number says nothing of the images"
            )
            yield Finding("label floor", WRONG, said, why)
        else:
            yield Finding("label floor", LOOK, said, "so much of the accuracy comes from the labels whatever the images show")


def _of_best(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield results whose best measurement on the test images lies far above the final one, or that are chosen so."""
    if summary.get("select") == "best_on_test":
        why = 'it flatters every method, the noisiest most; set evaluate.select = "last"'
        yield Finding("best on test", LOOK, "the headline is the best of all measurements on the test images", why)
        return
    far = []
    for row in rows:
        best, final = number(tables(row).get("best_on_test", {}).get("mean")), _spread(row)
        if best is not None and final and best > final.mean + BEST_POINTS:
            far.append(f"{row.get('set')} {_told(row)}: {best:.1f} % before the final {final.mean:.1f} %")
    if far:
        why = "the students forget towards the end: fewer epochs or another schedule; papers that print the best show the higher number"
        yield Finding("best on test", LOOK, _listed(far), why)
    elif rows:
        yield Finding("best on test", FINE, "final measurements are within a point of the best", "")


def _of_whole(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield whether the whole dataset is the upper bound that it is taken for."""
    for row in rows:
        whole = _spread(row) if row.get("set") == "full" else None
        parts = {str(other.get("set")): _spread(other) for other in rows if other is not row and alike(row, other)}
        means = {name: part.mean for name, part in parts.items() if part is not None}
        if whole is None or not means:
            continue
        best = max(means, key=lambda name: means[name])
        said = f"{_told(row)}: {whole.mean:.1f} % from the whole dataset, {means[best]:.1f} % from {best}"
        if whole.mean < means[best]:
            why = "its training is too short to be an upper bound, so the gap to it says nothing; use more evaluate.full_epochs"
            yield Finding("whole dataset", LOOK, said, why)
        else:
            yield Finding("whole dataset", FINE, said, "")


def _over_random(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield the paired difference of each condensed result to random real images, and whether chance explains it (t test, 95 %)."""
    for row in rows:
        if row.get("set") != "condensed":
            continue
        check, told, gain = "over random", _told(row), _values(row.get("over_random"))
        if gain is None:
            why = 'nothing tells what the method adds; add "random" to evaluate.controls'
            yield Finding(check, LOOK, f"{told}: random real images were not measured with the same labels", why)
            continue
        if gain.std is None:
            why = "one seed cannot tell a difference from chance; use at least 3 (5 at one image per class)"
            yield Finding(check, LOOK, f"{told}: {gain.mean:+.2f} points, one seed", why)
            continue
        margin = student_quantile(gain.n) * _error(gain)
        said = f"{told}: {gain.mean:+.2f} ± {gain.std:.2f} points over {gain.n} paired seeds; chance reaches {margin:.2f} (t test, 95 %)"
        if gain.mean > margin:
            yield Finding(check, FINE, said, "")
        elif gain.mean < -margin:
            yield Finding(check, LOOK, said, "random real images are better, by more than chance explains: the method does harm here")
        else:
            yield Finding(check, LOOK, said, "within chance: it cannot be told from random real images; more seeds may")


def _of_published(rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the gap to each published figure, and the settings that differ from the published protocol."""
    held = [one.figure for one in held_against(values)]
    for figure in held:
        own = [row for row in rows if (row.get("set"), row.get("student")) == (figure.set, figure.student)]
        own = [row for row in own if row.get("protocol", PUBLISHED) == PUBLISHED and row.get("augmentation", True)]
        row = next((row for row in own if figure.set == "full" or row.get("labels") != HARD), own[0] if own else None)
        if (measured := _spread(row)) is not None:
            yield _of_figure(figure, measured.mean, values)
    if not held:
        ipc = values.get("condense.ipc")
        where = f"{printable(values.get('dataset.name'))} at {printable(ipc)} image{'' if ipc == 1 else 's'} per class with these students"
        yield Finding("published", FINE, f"EDC's tables print nothing for {where}", "")
    figure = next((figure for figure in held if figure.set == "condensed"), None)
    changed = _changed(values, figure)
    if changed:
        why = "accuracies of another recipe are no replication; what differs is listed by `edc check`"
        yield Finding("protocol", LOOK, f"{len(changed)} settings differ from the published: {_listed(changed, '; ')}", why)
    else:
        yield Finding("protocol", FINE, "no setting differs from the published protocol", "")


def _of_figure(figure: Figure, top1: float, values: Mapping[str, Any]) -> Finding:
    margin = max(TIED_POINTS, STANDARD_ERRORS * (figure.std or 0.0))
    gap, check = top1 - figure.top1, "published"
    where = f"{table_label(figure.table)} {printable(figure.row)}, {figure.student}"
    said = f"{where}: {top1:.1f} %, published {figure.printed}, {gap:+.1f} points"
    if gap >= -margin:
        return Finding(check, FINE, said, "")
    if gap < -FAR_POINTS and not _changed(values, figure):
        return Finding(check, WRONG, said, "with the published settings this is more than seeds and machines explain")
    return Finding(check, LOOK, said, f"below {figure.top1 - margin:.1f} %; the settings that differ, or weaker observers, may explain it")


def _changed(values: Mapping[str, Any], figure: Figure | None) -> list[str]:
    """Return `key = value` of the settings in which a run departs from its method, without those that belong to a figure."""
    of_method = Figure("", "", "", 0, ("",), "", 0.0, None, {})
    return [f"{name} = {_said(values.get(name))}" for name in changed_settings(values, figure or of_method)]


def _said(value: object) -> str:
    return printable(", ".join(map(str, value)) if isinstance(value, list) else value, 60)


def _partner(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any], set_name: str) -> Mapping[str, Any] | None:
    """Return the row of another set that is otherwise about the same."""
    return next((other for other in rows if other.get("set") == set_name and alike(row, other)), None)


def _spread(row: Mapping[str, Any] | None) -> Spread | None:
    """Return a row's top-1; None for no row, or one without."""
    return None if row is None else _values(row.get("top1"))


def _values(spread: object) -> Spread | None:
    """Return mean, deviation and number of values of a spread in a summary."""
    if not isinstance(spread, dict) or (mean := number(spread.get("mean"))) is None:
        return None
    values = spread.get("values")
    count = int(number(spread.get("n")) or (len(values) if isinstance(values, list) else 0))
    return Spread(mean, number(spread.get("std")), count)


def student_quantile(count: int) -> float:
    """Return how many standard errors a mean of `count` (2 or more) values may lie from zero by chance: Student's t, two-sided, 95 %."""
    from scipy.stats import t

    return float(t.ppf(0.975, count - 1))


def _error(spread: Spread) -> float:
    """Return the standard error of a mean; 0 where a single seed tells none."""
    return (spread.std or 0.0) / math.sqrt(max(spread.n, 1))


def _told(row: Mapping[str, Any]) -> str:
    """Say what a row is about beside its set: student, protocol, labels, and augmentation where there is none."""
    words = [row.get("student"), row.get("protocol", PUBLISHED), row.get("labels", "")]
    return " ".join(printable(word) for word in [*words, "" if row.get("augmentation", True) else "unaugmented"] if word)


def _listed(words: Sequence[str], between: str = ", ") -> str:
    more = f"{between}and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return between.join(words[:SHOWN]) + more

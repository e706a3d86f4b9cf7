"""Is something wrong with a run's number? What its files and its networks say, as findings: fine, worth a look, or wrong.

Everything here reads plain files; what needs the networks themselves is measured by `engine.stages.verify` and handed in. Accuracies are
in percent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.project.protocols import HARD, PUBLISHED
from engine.project.published import Figure, changed_settings, held_against, table_label
from engine.project.warnings import highest_ema
from engine.runs.compare import Facts
from engine.runs.events import Metrics, number, read_all, read_metrics, without_rewinds
from engine.runs.findings import FINE, LOOK, WRONG, Finding, Verdict, listed
from engine.runs.layout import Run, read_object, tables
from engine.runs.text import printable
from engine.runs.verify_results import STANDARD_ERRORS, of_results, top1_of

SMALL_SKILL = 0.2  # of the way from chance to 100 %, below which an observer has learnt little
CHANGED_POINTS = 1.0  # by which an accuracy may differ when it is measured again in another precision
PERMUTED_POINTS = 10.0  # that another order of the classes must gain,
CHANCE_POINTS = 5.0  # and this much more than it gains of answers without knowledge
OWN_CLASS = 50.0  # % of the condensed images that observers should take for their own class
DOMINANT = 0.9  # share of a loss term that leaves the others nothing to say
ENDS = 20  # the first and last iterations are this part of a batch's
TIED_POINTS = 1.0  # published results that differ by less are the same
FAR_POINTS = 10.0  # below a published figure is more than a protocol explains
EXTREME_SHARE = 0.25  # of pixels at 0 or 255 beyond what real images have


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
    rows = [row for row in results if isinstance(row, dict) and top1_of(row)] if isinstance(results, list) else []
    return [
        *_of_state(facts),
        *_of_observers(measured, chance),
        *_of_images(measured.images, chance),
        *_of_terms(run, facts.values),
        *_of_losses(run),
        *_of_averages(run),
        *of_results(rows, chance, facts.values, facts.summary),
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
    said = f"{answers.top1:.1f} % right, {answers.best:.1f} % in another order of the classes ({name}): {listed(moved)}"
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
        elif answers.top1 <= chance + STANDARD_ERRORS * 100 * math.sqrt(chance / 100 * (1 - chance / 100) / answers.images):
            why = "they show nothing of their classes: noise, images of something else, or labels in no order at all"
            yield Finding("classes of the images", WRONG, said, why)
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
        yield Finding("averaged student", verdict, f"momentum {listed(list(momenta), '; ')}", why[verdict])


def _of_published(rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the gap to each published figure, and the settings that differ from the published protocol."""
    held = [one.figure for one in held_against(values)]
    for figure in held:
        own = [row for row in rows if (row.get("set"), row.get("student")) == (figure.set, figure.student)]
        own = [row for row in own if row.get("protocol", PUBLISHED) == PUBLISHED and row.get("augmentation", True)]
        row = next((row for row in own if figure.set == "full" or row.get("labels") != HARD), own[0] if own else None)
        if (measured := top1_of(row)) is not None:
            yield _of_figure(figure, measured.mean, values)
    if not held:
        ipc = values.get("condense.ipc")
        where = f"{printable(values.get('dataset.name'))} at {printable(ipc)} image{'' if ipc == 1 else 's'} per class with these students"
        yield Finding("published", FINE, f"EDC's tables print nothing for {where}", "")
    figure = next((figure for figure in held if figure.set == "condensed"), None)
    changed = _changed(values, figure)
    if changed:
        why = "accuracies of another recipe are no replication; `edc check` has the same list, and beside it students, seeds and controls"
        count = f"{len(changed)} setting{' differs' if len(changed) == 1 else 's differ'} from the method"
        yield Finding("protocol", LOOK, f"{count}: {listed(changed, '; ')}", why)
    else:
        yield Finding("protocol", FINE, "no setting differs from the method", "")


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

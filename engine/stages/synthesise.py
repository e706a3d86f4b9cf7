"""Synthesise: optimise the condensed images so that observers see in them the statistics of the real ones (EDC 3; methods 1.5d)."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.compute.checkpoint import load_checkpoint, save_checkpoint
from engine.compute.precision import autocast
from engine.compute.seeding import generator
from engine.data.condensed import read_condensed
from engine.errors import RunError, Stopped
from engine.matching import diversity, flatness, priors
from engine.matching.loss import Matcher, MatchSettings
from engine.matching.table_files import open_table
from engine.matching.tables import TableAccumulator
from engine.stages import schedules
from engine.stages.batch_views import BatchViews
from engine.stages.inputs import Inputs
from engine.stages.report import Report
from engine.stages.saving import PREVIEW, save_images, save_preview
from engine.stages.statistics import collect
from engine.stages.training import laid_out_as

# Losses of float16 passes are scaled up before the backward pass, or small pixel gradients would vanish.
FLOAT16_SCALE = 1024.0
PREVIEW_SECONDS = 5.0  # between two looks at the images as they form,
PREVIEW_SHARE = 50.0  # or so many times what the last look took, where that is more


def synthesise(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Optimise all images batch after batch and write them to `images.safetensors`, class after class.

    Raises Stopped after a checkpoint when asked to stop, RunError when the loss is no longer a number.
    """
    start = read_condensed(inputs.folder("images"))
    ipc, seed = settings["condense.ipc"], settings["condense.seed"]
    images = inputs.normalise(start.images.to(inputs.device))
    observers = inputs.observers()
    tables = (
        [open_table(folder).to(inputs.device) for folder in inputs.folders["tables"]]
        if "tables" in inputs.folders
        else [None] * len(observers)
    )
    matchers = [Matcher(observer, match_settings(settings), table) for observer, table in zip(observers, tables, strict=True)]
    batches = image_batches(
        inputs.classes, ipc, order=settings["batch.order"], size=settings["batch.size"], statistics=settings["batch.statistics"]
    )
    synthesis = _Synthesis(settings, inputs, folder, report, observers, matchers, len(batches))
    finished = synthesis.restore(images)
    iterations = len(batches) * settings["synthesise.iterations"]
    synthesis.preview = _Preview(inputs, folder, report, start.images.clone(), start.labels, iterations)
    for rows in batches[:finished]:
        synthesis.preview.put(rows, images[rows.flatten().to(inputs.device)])
    for number, rows in enumerate(batches[finished:], finished):
        made = synthesis.optimise(number, images, start.labels[rows], rows, seed)
        images[rows.flatten().to(inputs.device)] = made
        synthesis.preview.put(rows, made)
    report.flush()
    kept = inputs.to_uint8(images, truncate=settings["save.quantise"] == "truncate").cpu()
    facts = {"ipc": ipc, "seed": seed, "settings": {name: value for name, value in settings.items() if "." in name}}
    save_images(
        folder, kept, start.labels, inputs.store, {name: value for name, value in settings.items() if name.startswith("save.")}, facts
    )
    (folder / PREVIEW).unlink(missing_ok=True)
    return {"images": len(kept), "image_bytes": kept.numel(), "iterations": iterations}


def match_settings(settings: dict[str, Any]) -> MatchSettings:
    """Take the matcher's settings from a step's flat settings."""
    w_class = settings["match.w_class"]
    w_global = settings["match.w_global"]
    return MatchSettings(
        layers=settings["match.layers"],
        patch_size=settings["match.patch_size"],
        first_multiplier=settings["match.first_multiplier"],
        w_global=1 - w_class if w_global is None else w_global,
        w_class=w_class,
        class_form=settings["match.class_form"],
        class_variance=settings["match.class_variance"],
        norm=settings["match.norm"],
        ema_momentum=settings["match.ema_momentum"],
        ema_start=settings["match.ema_start"],
        ema_reset_per_batch=settings["match.ema_reset"],
        conv_drop=settings["match.conv_drop"],
        swap_class_patch=settings["match.swap_class_patch"],
        double_global_conv=settings["match.double_global_conv"],
    )


def image_batches(classes: int, ipc: int, *, order: str, size: int, statistics: int) -> list[Tensor]:
    """Return the images (class * ipc + number) that are optimised together: tensors (G, n) of G statistics batches of n images.

    `class_major` goes class by class; `one_per_class` takes image 0 of every class, then image 1, … and never two of one class into a
    batch. Images that fill no whole statistics batch make a smaller one of their own, so none is left out (defect D19).
    """
    grid = torch.arange(classes * ipc).view(classes, ipc)
    rounds = grid.view(1, -1) if order == "class_major" else grid.T
    batches = []
    for batch in (part for images in rounds for part in images.split(size or len(images))):
        group = min(statistics or len(batch), len(batch))
        whole = len(batch) // group * group
        batches.append(batch[:whole].view(-1, group))
        if whole < len(batch):
            batches.append(batch[whole:].view(1, -1))
    return batches


class _Preview:
    """Lets people look at the images while they form; whatever becomes of it, the images do not depend on it."""

    def __init__(self, inputs: Inputs, folder: Path, report: Report, images: Tensor, labels: Tensor, iterations: int) -> None:
        """`images` uint8 (N, 3, H, W) and `labels` (N,) on the CPU, as they are before the first of so many iterations."""
        self.inputs, self.folder, self.report = inputs, folder, report
        self.images, self.labels, self.iterations = images, labels, iterations
        self.wait = PREVIEW_SECONDS
        self.last = time.monotonic()

    def put(self, rows: Tensor, x: Tensor) -> None:
        """Take over a batch: `x` (G*n, 3, H, W) in normalised units are the images `rows` (G, n)."""
        self.images[rows.flatten()] = self.inputs.to_uint8(x).cpu()

    def due(self) -> bool:
        """Say whether it is time for another look."""
        return time.monotonic() - self.last >= self.wait

    def write(self, rows: Tensor, x: Tensor, iteration: int) -> None:
        """Write all images, those of the batch at work as they are now; a disk that has no room for it ends the looking, nothing else."""
        began = time.monotonic()
        self.put(rows, x)
        try:
            save_preview(self.folder, self.images, self.labels, self.inputs.store, iteration=iteration, iterations=self.iterations)
        except RunError as error:
            self.report.log(f"images can no longer be looked at while they form: {error}", "warning")
            self.wait = math.inf
            return
        self.last = time.monotonic()
        self.wait = max(PREVIEW_SECONDS, PREVIEW_SHARE * (self.last - began))


class _Synthesis:
    """Optimises one batch of images after the other; can be interrupted at any iteration and goes on in the same bytes."""

    def __init__(
        self,
        settings: dict[str, Any],
        inputs: Inputs,
        folder: Path,
        report: Report,
        observers: list[nn.Module],
        matchers: list[Matcher],
        batches: int,
    ) -> None:
        self.settings, self.inputs, self.folder, self.report = settings, inputs, folder, report
        self.observers, self.matchers, self.batches = observers, matchers, batches
        self.iterations = settings["synthesise.iterations"]
        factors = schedules.of_project(settings["synthesise.schedule"], self.iterations, zeta=1.0, milestones=[], gamma=1.0)
        self.rates = [settings["synthesise.learning_rate"] * factor for factor in factors]
        self.lowest, self.highest = -inputs.mean / inputs.std, (1 - inputs.mean) / inputs.std
        self.scale = FLOAT16_SCALE if inputs.precision == "float16" else 1.0
        self.kind = settings["flatness.kind"]
        self.auto = settings["match.weight"] == "auto"
        self.weight: float | None = None if self.auto else settings["match.weight"]  # None until a batch's first loss is known
        self.resumed: dict[str, Tensor] = {}
        self.first_iteration = 0
        self.preview: _Preview | None = None

    def restore(self, images: Tensor) -> int:
        """Take up the newest undamaged checkpoint: fill in the images of finished batches and return how many batches those are."""
        tensors, values, damaged = load_checkpoint(self.folder)
        for problem in damaged:
            self.report.log(problem, "warning")
        if not values:
            return 0
        images.copy_(tensors.pop("images"))
        self.resumed, self.first_iteration = tensors, values["iteration"]
        self.weight = values["weight"] if self.auto else self.weight
        self.report.log(f"goes on from iteration {values['iteration']} of batch {values['batch'] + 1} of {self.batches}")
        return values["batch"]

    def optimise(self, number: int, images: Tensor, labels: Tensor, rows: Tensor, seed: int) -> Tensor:
        """Return the optimised images (G*n, 3, H, W) of the batch `rows` (G, n) with `labels` (G, n), in normalised units."""
        groups, group_size = rows.shape
        x = images[rows.flatten().to(self.inputs.device)].contiguous(memory_format=torch.channels_last).requires_grad_(True)
        average = x.detach().clone()
        optimizer = torch.optim.Adam([x], lr=self.rates[0], betas=tuple(self.settings["synthesise.betas"]), eps=1e-8)
        for index, matcher in enumerate(self.matchers):
            matcher.start_batch(labels, self._sampled_targets(index, labels, seed, number))
        first = self._resume_batch(x, average, optimizer)
        views = BatchViews(self.settings, self.inputs, groups, group_size, seed, number)
        targets = labels.flatten().to(self.inputs.device)
        for iteration in range(first, self.iterations):
            for group in optimizer.param_groups:
                group["lr"] = self.rates[iteration]
            if self.kind in ("logit_ema", "stat_ema"):
                flatness.update_ema(average, x.detach(), self.settings["flatness.beta"])
            parts = self._gradient(x, average, targets, views, number, iteration, seed)
            optimizer.step()
            with torch.no_grad():
                x.copy_(torch.maximum(torch.minimum(x, self.highest), self.lowest))
            self._tell(number, iteration, parts, groups)
            if self.preview is not None and self.preview.due():
                self.preview.write(rows, x.detach(), number * self.iterations + iteration + 1)
            if self.report.checkpoint_due():
                self._checkpoint(number, iteration + 1, images, x, average, optimizer)
        self._check(number, self.iterations, x)
        self.first_iteration, self.resumed = 0, {}
        self.weight = None if self.auto else self.weight
        return x.detach()

    def _gradient(
        self, x: Tensor, average: Tensor, targets: Tensor, views: BatchViews, number: int, iteration: int, seed: int
    ) -> dict[str, Tensor]:
        """Set the gradient of the loss with respect to the pixels `x`, and return the parts of the loss as detached scalars."""
        x.grad = None
        before = self._states()
        loss, parts = self._loss(x, average, targets, views, number, iteration, seed)
        (gradient,) = torch.autograd.grad(loss * self.scale, x)
        if self.kind == "sam":
            moved = flatness.sam_perturbation(x.detach(), gradient, self.settings["flatness.rho"], views.groups).requires_grad_(True)
            after = self._states()
            self._set_states(before)  # the same loss at another place, so from the same running moments
            loss, _ = self._loss(moved, average, targets, views, number, iteration, seed)
            (gradient,) = torch.autograd.grad(loss * self.scale, moved)
            self._set_states(after)
        gradient = gradient / self.scale
        # Grey images have one value a pixel, shown in three channels: left apart, the channels would drift into colours no real image has.
        x.grad = (
            gradient.mean(1, keepdim=True).expand_as(gradient).contiguous(memory_format=torch.channels_last)
            if self.inputs.grey
            else gradient
        )
        return parts

    def _states(self) -> list[dict[str, Tensor]]:
        """Return the running moments of all observers."""
        return [matcher.state_dict() for matcher in self.matchers]

    def _set_states(self, states: list[dict[str, Tensor]]) -> None:
        """Put back what `_states` returned."""
        for matcher, state in zip(self.matchers, states, strict=True):
            matcher.load_state_dict(state)

    def _loss(
        self, x: Tensor, average: Tensor, targets: Tensor, views: BatchViews, number: int, iteration: int, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of an iteration, summed over statistics batches, and its parts."""
        seen = views.of(x, iteration)
        chosen = self._chosen(number, iteration, seed)
        found = [self._observer_loss(index, x, seen, average, targets, views, iteration, seed, number) for index in chosen]
        if self.weight is None:
            self.weight = self._equalising([parts for *_, parts in found], number)
        total = x.new_zeros(())
        sums: dict[str, Tensor] = {}
        for classification, matched, flat, parts in found:
            loss = classification + self.weight * matched
            total = total + (loss if flat is None else loss + self.settings["flatness.weight"] * flat) / len(chosen)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0) + value / len(chosen)
        total = total + self._image_losses(x, seen, targets, views, sums)
        return total, sums | {"loss": total.detach()}

    def _observer_loss(
        self,
        index: int,
        x: Tensor,
        seen: Tensor,
        average: Tensor,
        targets: Tensor,
        views: BatchViews,
        iteration: int,
        seed: int,
        number: int,
    ) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Tensor]]:
        """Return one observer's losses before they are weighted, classification, matching and maybe flatness, and these as parts."""
        settings, observer, matcher = self.settings, self.observers[index], self.matchers[index]
        draws = generator(seed, "conv-drop", number, iteration, index)
        with matcher.capture(draws), autocast(self.inputs.device, self.inputs.precision):
            logits = observer(seen)
        logits = logits.float()
        classification = functional.cross_entropy(logits, targets, reduction="none").view(views.groups, -1).mean(1).sum()
        moments = matcher.moments()[: views.groups] if self.kind == "stat_ema" else None
        matched = matcher.loss()
        parts = {"classification": classification.detach(), "matching": matched.total.detach()}
        parts |= {f"matching_{name}": matched.parts[name] for name in ("global", "class")}
        if self.kind in ("logit_ema", "two_crop"):
            other = views.of(average, iteration) if self.kind == "logit_ema" else views.of(x.detach(), iteration, second=True)
            with torch.no_grad(), autocast(self.inputs.device, self.inputs.precision):
                other_logits = observer(other).float()
            value = flatness.ema_logits_loss(
                logits, other_logits, tau=settings["flatness.tau"], reduction=settings["flatness.reduction"], groups=views.groups
            )
        elif self.kind == "stat_ema":
            with (
                torch.no_grad(),
                matcher.capture(generator(seed, "conv-drop", number, iteration, index)),
                autocast(self.inputs.device, self.inputs.precision),
            ):
                observer(views.of(average, iteration))
            value = flatness.stat_ema_loss(
                moments, matcher.moments()[: views.groups], matcher.segments, settings["match.first_multiplier"], settings["match.norm"]
            )
        else:
            return classification, matched.total, None, parts
        return classification, matched.total, value, parts | {"flatness": value.detach()}

    def _equalising(self, parts: list[dict[str, Tensor]], number: int) -> float:
        """Return the `match.weight` at which matching counts as much as classification in a batch's first iteration, and tell it.

        It is a number of its own, so no gradient passes through it, and stays with the batch; 0 where there is nothing to match.
        """
        classification, matching = (torch.stack([part[name] for part in parts]).mean().item() for name in ("classification", "matching"))
        weight = classification / matching if matching else 0.0
        self.report.log(
            f"batch {number + 1} of {self.batches}: match.weight {weight:.4g}, classification {classification:.4g} "
            f"and matching {matching:.4g} at its first iteration"
        )
        return weight

    def _image_losses(self, x: Tensor, seen: Tensor, targets: Tensor, views: BatchViews, parts: dict[str, Tensor]) -> Tensor:
        """Return the losses that need no observer, adding them to `parts`: data densification (G-VBSM 3.1) and priors (SRe2L Eq. 7)."""
        settings, groups, total = self.settings, views.groups, x.new_zeros(())
        losses = {}
        if settings["diversity.weight"]:
            # All images of a class in the batch, also where they lie in several statistics batches, as the release gathers them.
            tau, normalise = settings["diversity.tau"], settings["diversity.normalise"]
            losses["diversity"] = diversity.densification(seen, targets.cpu(), tau, normalise)
        if settings["prior.tv"]:
            losses["prior.tv"] = priors.total_variation(seen, groups)
        if settings["prior.l2"]:
            losses["prior.l2"] = priors.mean_norm(seen, groups)
        for name, value in losses.items():
            parts[name.removeprefix("prior.")] = value.detach()
            total = total + settings["diversity.weight" if name == "diversity" else name] * value
        return total

    def _chosen(self, number: int, iteration: int, seed: int) -> list[int]:
        """Return the observers of an iteration: the next one, a random one, or all (methods 1.4; with `ema_reset` off the turn goes on)."""
        count, rotation = len(self.observers), self.settings["observers.rotation"]
        if rotation == "all":
            return list(range(count))
        if rotation == "random":
            return [int(torch.randint(count, (1,), generator=generator(seed, "observer", number, iteration)))]
        turn = iteration if self.settings["match.ema_reset"] else number * self.iterations + iteration
        return [turn % count]

    def _sampled_targets(self, index: int, labels: Tensor, seed: int, number: int) -> Tensor | None:
        """Return class targets from random real images of the batch's classes, where `match.class_source` asks for them.

        As many images of each class as the batch has; the result is shaped as `Matcher.start_batch` takes it.
        """
        settings, store = self.settings, self.inputs.store
        if settings["match.class_source"] == "table" or not settings["match.w_class"]:
            return None
        present, local, counts = labels.unique(return_inverse=True, return_counts=True)
        rows = []
        for label, count in zip(present.tolist(), counts.tolist(), strict=True):
            span = store.train.rows_of_class(label)
            draws = generator(seed, "sampled-real", number, store.classes.names[label])
            rows.append(span.start + torch.randperm(span.stop - span.start, generator=draws)[:count])
        images = self.inputs.normalise(torch.from_numpy(store.train.images[torch.cat(rows).numpy()]).to(self.inputs.device))
        accumulator = TableAccumulator(
            self.observers[index],
            kind=settings["match.layers"],
            patch=settings["match.patch_size"] or None,
            classes=len(present),
            device=self.inputs.device,
        )
        collect(
            self.observers[index],
            accumulator,
            images,
            torch.cat([torch.full((len(some),), place) for place, some in enumerate(rows)]),
            self.inputs,
        )
        if settings["match.class_form"] == "per_class_sum":
            local = torch.cat([group.unique() for group in local])[:, None]
        return accumulator.finish().class_target(local, settings["match.class_variance"])

    def _tell(self, number: int, iteration: int, parts: dict[str, Tensor], groups: int) -> None:
        """Report the parts of the loss, as means over statistics batches, and the progress over all batches."""
        step = number * self.iterations + iteration + 1
        self.report.later(step, {name: value / groups for name, value in parts.items()})
        self.report.progress(step, self.batches * self.iterations, "iterations")

    def _resume_batch(self, x: Tensor, average: Tensor, optimizer: torch.optim.Adam) -> int:
        """Bring the batch to where its checkpoint stands and return the next iteration."""
        if "x" not in self.resumed:
            return 0
        with torch.no_grad():
            x.copy_(self.resumed["x"])
            average.copy_(self.resumed["average"])
        state = {name: laid_out_as(x, self.resumed[f"adam.{name}"]) for name in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.load_state_dict({"state": {0: state}, "param_groups": optimizer.state_dict()["param_groups"]})
        for index, matcher in enumerate(self.matchers):
            prefix = f"matcher.{index}."
            matcher.load_state_dict({name.removeprefix(prefix): value for name, value in self.resumed.items() if name.startswith(prefix)})
        return self.first_iteration

    def _check(self, number: int, iteration: int, x: Tensor) -> None:
        """Raise RunError when a pixel is not a number, as all are soon after the loss is none."""
        if not torch.isfinite(x).all().item():
            self.report.flush()
            raise RunError(
                f"synthesis: the images are no longer numbers at iteration {iteration} of batch {number + 1}; "
                "lower synthesise.learning_rate or match.weight"
            )

    def _checkpoint(self, number: int, iteration: int, images: Tensor, x: Tensor, average: Tensor, optimizer: torch.optim.Adam) -> None:
        """Write everything the synthesis goes on from; raises Stopped when a stop is wanted, RunError when the loss is not a number."""
        self._check(number, iteration, x)
        tensors = {"images": images, "x": x, "average": average} | {f"adam.{name}": value for name, value in optimizer.state[x].items()}
        for index, matcher in enumerate(self.matchers):
            tensors |= {f"matcher.{index}.{name}": value for name, value in matcher.state_dict().items()}
        save_checkpoint(self.folder, tensors, {"batch": number, "iteration": iteration} | ({"weight": self.weight} if self.auto else {}))
        self.report.flush()
        self.report.checkpoint_written()
        if self.report.stop_wanted():
            raise Stopped(f"synthesis: stopped after iteration {iteration} of batch {number + 1} of {self.batches}")

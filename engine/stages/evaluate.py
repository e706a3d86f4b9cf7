"""Evaluate: train a student from scratch on a set of images and measure it on the real test split."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.compute.checkpoint import load_checkpoint, save_checkpoint
from engine.compute.precision import autocast
from engine.compute.seeding import seed_for
from engine.compute.transfer import sent_all
from engine.data.condensed import read_condensed
from engine.data.views import Chunk, Views, ViewSettings, augmented, batch_spans, chunk_limit, chunks, draw_epoch
from engine.errors import RunError, Stopped
from engine.stages import averaging, schedules, training
from engine.stages.inputs import HeldImages, Inputs, RealImages
from engine.stages.labelling import labelled_ahead
from engine.stages.losses import student_loss
from engine.stages.report import Report
from engine.stages.search import found_learning_rate, held_out_rows
from engine.stages.soft_labels import SoftLabels
from engine.stages.squeeze import Trainer

MEASUREMENTS = 10  # about as many as a training makes when `evaluate.every` is 0
RECALIBRATION_VIEWS = 1000
WHOLE = "full"  # the set of all training images
VALIDATION = "validation"


def evaluate(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Train one student with one seed on a set and return its accuracies in percent (EDC 3.4, Tables 6-10).

    A set of condensed or chosen images is trained on with soft labels or, where `evaluate.loss` is `ce`, with hard ones; `full`, the
    whole training split, likewise where there are observers to label it, else with hard labels as in squeeze. Writes the measured
    student to `observer.safetensors`, but neither that of the hard control on the whole dataset nor one of a search, which is measured
    on training images held out. Raises Stopped after a checkpoint when asked to stop, RunError when the loss is no longer a number.
    """
    whole = settings["set"] == WHOLE and "observers" not in inputs.folders
    with training.naming_batches_of_one(folder.name, "evaluate.full_batch_size" if settings["set"] == WHOLE else "evaluate.batch_size"):
        return _evaluate_full(settings, inputs, folder, report) if whole else Student(settings, inputs, folder, report).train()


def _evaluate_full(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Train a student on all real images: hard labels, padded crops and mirrors as in squeeze, cosine to zero."""
    name, seed, epochs, size = settings["student"], settings["seed"], settings["evaluate.full_epochs"], settings["evaluate.full_batch_size"]
    train, rate = RealImages(inputs.store.train, inputs.device), settings["evaluate.learning_rate"]
    model = training.fresh_model(name, inputs, seed, "student", name)
    optimizer = _optimizer(settings, model, rate)
    steps = len(training.epoch_batches(len(train), size, 0))
    rates = [rate * factor for factor in schedules.cosine(epochs) for _ in range(steps)]
    trainer = Trainer(model, optimizer, inputs, folder, report)
    flip = settings["squeeze.flip"] and settings["mirror"]
    trainer.run(
        train,
        epochs=epochs,
        batch_size=size,
        rates=rates,
        padding=settings["squeeze.padding"],
        crop_scale=settings["squeeze.crop_scale"],
        flip=flip,
        seed=(seed, "full", name),
    )
    final = training.measure(model, RealImages(inputs.store.test, inputs.device), inputs)
    return {"final": final, "best_on_test": final, "images": len(train), "updates": epochs * steps}


def _optimizer(settings: dict[str, Any], model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Return the student's optimiser."""
    return training.make_optimizer(
        settings["evaluate.optimizer"],
        model,
        learning_rate=learning_rate,
        weight_decay=settings["evaluate.weight_decay"],
        momentum=settings["evaluate.momentum"],
    )


class Student:
    """One student's training on augmented views of a set, which can be interrupted after any of its steps."""

    def __init__(self, settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> None:
        self.settings, self.inputs, self.folder, self.report = settings, inputs, folder, report
        self.images, given, rows = _training_images(settings, inputs)
        self.soft = SoftLabels(settings, inputs, given, len(self.images))
        # Stored labels belong to the views of their own seed; with others, each student sees views of its own.
        view_seed = self.soft.view_seed()
        self.views = ViewSettings.of(settings, seed_for("labels", settings["seed"]) if view_seed is None else view_seed)
        self.searching = settings.get("measured_on") == VALIDATION
        self.measured_on = (
            RealImages(inputs.store.train, inputs.device, held_out_rows(inputs.store, settings["seed"], rows))
            if self.searching
            else RealImages(inputs.store.test, inputs.device)
        )
        self.rate = settings["evaluate.learning_rate"]
        if self.rate is None:
            self.rate = found_learning_rate(inputs.folders["search"], report)
        self.epochs = settings["evaluate.epochs"]
        self.side = inputs.store.resolution
        self.batches = len(batch_spans(len(self.images), self.views.batch_size))
        self.updates = self.epochs * self.batches
        self.model = training.fresh_model(settings["student"], inputs, settings["seed"], "student", settings["student"])
        self.optimizer = _optimizer(settings, self.model, self.rate)
        self.scaler = torch.amp.GradScaler(torch.device(inputs.device).type, enabled=inputs.precision == "float16")
        self.momentum = averaging.capped_momentum(settings["evaluate.ema"], self.updates)
        if self.momentum < settings["evaluate.ema"]:
            report.log(
                f"evaluate.ema lowered from {settings['evaluate.ema']} to {self.momentum:.4f}: there are only {self.updates} updates"
            )
        self.average = copy.deepcopy(self.model) if settings["evaluate.ema"] else None
        warm_up = schedules.warm_up(settings["evaluate.warmup_epochs"])
        self.factors = warm_up + schedules.of_project(
            settings["evaluate.schedule"],
            self.epochs - len(warm_up),
            zeta=settings["evaluate.zeta"],
            milestones=settings["evaluate.milestones"],
            gamma=settings["evaluate.gamma"],
        )
        self.next_chunk, self.next_batch, self.history = 0, 0, []
        self.alrs = {"factor": 1.0, "previous": None}
        self.epoch_losses: list[Tensor] = []
        self._restore()

    def train(self) -> dict[str, Any]:
        """Run all remaining chunks and return the accuracies."""
        dropout = training.has_dropout(self.model)
        self.model.train()
        limit = chunk_limit(self.side)
        for chunk in chunks(len(self.images), self.side, self.epochs, self.views, limit=limit, first=self.next_chunk):
            for number, part in chunk.parts(labelled_ahead(self.inputs.device, self.side)):
                if number + len(part.batches) > self.next_batch and not self._train_on(part, number, dropout=dropout):
                    return self._diverged()
            self.next_chunk, self.next_batch = chunk.number + 1, 0
        return self._finish()

    def _train_on(self, chunk: Chunk, first_number: int, *, dropout: bool) -> bool:
        """Take the steps of a part of a chunk, whose first batch has the number `first_number`; False where a search is of no use."""
        rendered = self._rendered(chunk.views)
        teacher = self.soft.of_chunk(rendered, chunk)
        index, partner, share = sent_all((chunk.views.index, chunk.views.partner, chunk.views.share), self.inputs.device)
        own = self.images.labels[index]
        partner = own[partner]
        for number, (epoch, first, last) in enumerate(chunk.batches, first_number):
            if number < self.next_batch:
                continue
            part = slice(first, last)
            if dropout:
                torch.manual_seed(seed_for(self.settings["seed"], "dropout", chunk.number, number))
            loss = self.update(epoch, rendered[part], None if teacher is None else teacher[part], own[part], partner[part], share[part])
            self.epoch_losses.append(loss)
            if len(self.epoch_losses) == self.batches and not self._epoch_done(epoch):
                return False
            self.next_batch = number + 1
            if self.report.checkpoint_due():
                self._checkpoint(epoch)
        return True

    def _rendered(self, views: Views) -> Tensor:
        """Return views of the images (M, 3, H, W) in normalised units."""
        return augmented(self.images.take(views.index), views, self.views, self.inputs.mean, self.inputs.std)

    def update(self, epoch: int, views: Tensor, teacher: Tensor | None, own: Tensor, partner: Tensor, share: Tensor) -> Tensor:
        """Take one optimiser step on a batch of views and return its loss, still on the device."""
        training.set_learning_rate(self.optimizer, self.rate * self.factors[epoch] * self.alrs["factor"])
        with autocast(self.inputs.device, self.inputs.precision):
            logits = self.model(views)
        loss = student_loss(self.settings, logits, teacher, own, partner, share)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            averaging.update_average(self.average, self.model, self.momentum)
        return loss.detach()

    def _epoch_done(self, epoch: int) -> bool:
        """Tell the epoch's loss, adapt ALRS, and measure where it is due; a search learns from False that the loss is no number."""
        loss = torch.stack(self.epoch_losses).mean()
        self.epoch_losses.clear()
        self.report.later(epoch + 1, {"loss": loss})
        self.report.progress(epoch + 1, self.epochs, "epochs")
        if self.settings["evaluate.schedule"] == "alrs":
            value = loss.item()
            self.alrs["factor"] *= schedules.alrs_factor(self.alrs["previous"], value, gamma=self.settings["evaluate.gamma"])
            self.alrs["previous"] = value
        every = self.epochs if self.searching else self.settings["evaluate.every"] or max(1, self.epochs // MEASUREMENTS)
        if (epoch + 1) % every == 0 or epoch + 1 == self.epochs:
            if not torch.isfinite(loss).item():
                if self.searching:
                    return False
                raise RunError(
                    f"{self.folder.name}: the training loss is not a number after epoch {epoch + 1}; lower evaluate.learning_rate"
                )
            accuracy = training.measure(self._measured(), self.measured_on, self.inputs)
            self.history.append({"epoch": epoch + 1, **accuracy})
            self.report.metrics(epoch + 1, **accuracy)
        return True

    def _measured(self) -> nn.Module:
        """Return the network that is measured: the student, or its average with batch-norm statistics as `evaluate.ema_batchnorm` says."""
        if self.average is None:
            return self.model
        if self.settings["evaluate.ema_batchnorm"] == "ema":
            return self.average
        measured = copy.deepcopy(self.average)
        if self.settings["evaluate.ema_batchnorm"] == "online":
            averaging.copy_batchnorm(measured, self.model)
        else:
            with autocast(self.inputs.device, self.inputs.precision):
                averaging.recalibrate(measured, self._recalibration_batches())
        return measured

    def _recalibration_batches(self) -> Iterator[Tensor]:
        """Yield training batches of views drawn for this purpose: about a thousand views, at least an epoch but of the whole dataset."""
        enough = RECALIBRATION_VIEWS if self.settings["set"] == WHOLE else max(RECALIBRATION_VIEWS, len(self.images))
        seen = 0
        for epoch in range(-(-enough // len(self.images))):
            views = draw_epoch(len(self.images), self.side, self.epochs + epoch, self.views)
            for first, last in batch_spans(len(views), self.views.batch_size):
                if self.settings["set"] == WHOLE and seen >= enough:
                    return
                yield self._rendered(views.part(first, last))
                seen += last - first

    def _checkpoint(self, epoch: int) -> None:
        """Write everything the training goes on from; raises Stopped when a stop is wanted."""
        tensors = training.model_tensors(self.model) | training.optimizer_tensors(self.optimizer)
        if self.average is not None:
            tensors |= training.model_tensors(self.average, "average")
        if self.epoch_losses:
            tensors["epoch_losses"] = torch.stack(self.epoch_losses)
        values = {
            "epoch": epoch,
            "next_chunk": self.next_chunk,
            "next_batch": self.next_batch,
            "history": self.history,
            "alrs": self.alrs,
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(self.folder, tensors, values)
        self.report.flush()
        self.report.checkpoint_written()
        if self.report.stop_wanted():
            raise Stopped(f"{self.folder.name}: stopped in epoch {epoch + 1} of {self.epochs}")

    def _restore(self) -> None:
        """Take up the newest undamaged checkpoint of the folder, if there is one."""
        tensors, values, damaged = load_checkpoint(self.folder)
        for problem in damaged:
            self.report.log(problem, "warning")
        if not values:
            return
        training.restore_model(self.model, tensors)
        training.restore_optimizer(self.optimizer, tensors)
        if self.average is not None:
            training.restore_model(self.average, tensors, "average")
        if "epoch_losses" in tensors:
            self.epoch_losses = list(tensors["epoch_losses"].to(self.inputs.device))
        self.scaler.load_state_dict(values["scaler"])
        self.next_chunk, self.next_batch = values["next_chunk"], values["next_batch"]
        self.history, self.alrs = values["history"], values["alrs"]
        self.report.log(f"goes on from epoch {values['epoch'] + 1} of {self.epochs}")

    def _finish(self) -> dict[str, Any]:
        """Save the measured network and return its accuracies: the last ones, and the best of all measurements."""
        self.report.flush()
        final = {name: value for name, value in self.history[-1].items() if name != "epoch"}
        best = max(self.history, key=lambda row: row["top1"])
        if not self.searching:
            self.inputs.save_observer(self.folder, self._measured(), self.settings["student"], **final)
        return self._result(final, best) | {"history": self.history, "ema": self.momentum}

    def _diverged(self) -> dict[str, Any]:
        """Return the result of a search whose learning rate is of no use."""
        self.report.flush()
        self.report.log(f"{self.folder.name}: the training loss is not a number; this learning rate is too large", "warning")
        return self._result({"top1": 0.0}, {"top1": 0.0}) | {"diverged": True}

    def _result(self, final: dict[str, float], best: dict[str, float]) -> dict[str, Any]:
        """Return what every training tells."""
        found = {"learning_rate": self.rate} if self.settings["evaluate.learning_rate"] is None else {}
        return {"final": final, "best_on_test": best, "images": len(self.images), "updates": self.updates, **found}


def _training_images(settings: dict[str, Any], inputs: Inputs) -> tuple[RealImages | HeldImages, Tensor | None, list[int]]:
    """Return what a student is trained on, the soft labels (N, classes) that came with it, and which training images it is, if known."""
    if settings["set"] == WHOLE:
        return RealImages(inputs.store.train, inputs.device), None, []
    condensed = read_condensed(inputs.folder("images"))
    rows = [row for of_class in condensed.metadata.get("training_rows", []) for row in of_class]
    return HeldImages(condensed.images.to(inputs.device), condensed.labels.to(inputs.device)), condensed.soft_labels, rows

"""Squeeze: train an observer on the real images, or take over one that was trained elsewhere."""

import math
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from engine.compute.checkpoint import load_checkpoint, save_checkpoint
from engine.compute.precision import autocast
from engine.compute.seeding import generator, seed_for
from engine.errors import RunError, Stopped
from engine.stages import schedules, training
from engine.stages.inputs import Inputs, RealImages
from engine.stages.pretrained import take_over
from engine.stages.report import Report


def squeeze(settings: dict[str, Any], inputs: Inputs, folder: Path, report: Report) -> dict[str, Any]:
    """Train the observer on the training split with crops and mirrored images, and measure it on the test split.

    One whose weights come from elsewhere is checked and measured only. Writes `observer.safetensors`; returns the test accuracy in
    percent. Raises Stopped after a checkpoint when asked to stop, and RunError when the loss is no longer a number.
    """
    if "weights" in settings:
        return take_over(settings, inputs, folder, report)
    name, seed, epochs = settings["observer"], settings["squeeze.seed"], settings["squeeze.epochs"]
    train = RealImages(inputs.store.train, inputs.device)
    model = training.fresh_model(name, inputs, seed, "squeeze", name)
    optimizer = training.make_optimizer(
        settings["squeeze.optimizer"],
        model,
        learning_rate=settings["squeeze.learning_rate"],
        weight_decay=settings["squeeze.weight_decay"],
        momentum=settings["squeeze.momentum"],
    )
    kept_epoch = epochs - 1 if settings["squeeze.checkpoint"] == "last" else (epochs - 1) // 10 * 10
    trainer = Trainer(model, optimizer, inputs, folder, report)
    trainer.run(
        train,
        epochs=kept_epoch + 1,
        batch_size=settings["squeeze.batch_size"],
        rates=[settings["squeeze.learning_rate"] * factor for factor in _rates(settings, len(train))],
        padding=settings["squeeze.padding"],
        crop_scale=settings["squeeze.crop_scale"],
        flip=settings["squeeze.flip"] and settings["mirror"],
        seed=(seed, "squeeze", name),
    )
    test = RealImages(inputs.store.test, inputs.device)
    accuracy = training.measure(model, test, inputs)
    report.log(f"{name}: {accuracy['top1']:.2f} % of the test images right after {kept_epoch + 1} epochs")
    inputs.save_observer(folder, model, name, **accuracy)
    return accuracy


def _rates(settings: dict[str, Any], images: int) -> list[float]:
    """Return the factor of the learning rate for every step of every epoch asked for."""
    epochs = settings["squeeze.epochs"]
    steps = len(training.epoch_batches(images, settings["squeeze.batch_size"], 0))
    if settings["squeeze.schedule"] == "one_cycle":
        return schedules.one_cycle(epochs * steps)
    by_epoch = schedules.of_project(settings["squeeze.schedule"], epochs, zeta=1.0, milestones=[], gamma=1.0)
    return [factor for factor in by_epoch for _ in range(steps)]


class Trainer:
    """Hard-label training on real images that can be interrupted and goes on in the same bytes."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: Inputs, folder: Path, report: Report) -> None:
        self.model, self.optimizer, self.inputs, self.folder, self.report = model, optimizer, inputs, folder, report
        self.scaler = torch.amp.GradScaler(torch.device(inputs.device).type, enabled=inputs.precision == "float16")
        self.step = 0
        tensors, values, damaged = load_checkpoint(folder)
        for problem in damaged:
            report.log(problem, "warning")
        if values:
            training.restore_model(model, tensors)
            training.restore_optimizer(optimizer, tensors)
            self.scaler.load_state_dict(values["scaler"])
            self.step = values["step"]
            report.log(f"goes on from step {self.step}")

    def run(
        self,
        images: RealImages,
        *,
        epochs: int,
        batch_size: int,
        rates: list[float],
        padding: int,
        crop_scale: list[float] | None,
        flip: bool,
        seed: tuple[str | int, ...],
    ) -> None:
        """Train for `epochs`, one learning rate of `rates` a step; every draw follows from `seed`, the epoch and the batch."""
        dropout = training.has_dropout(self.model)
        self.model.train()
        total, step, loss = 0, 0, None
        for epoch in range(epochs):
            batches = training.epoch_batches(len(images), batch_size, *seed, "order", epoch)
            total = total or epochs * len(batches)
            images.upcoming(batches[max(0, self.step - step) :])
            for indices in batches:
                step += 1
                if step <= self.step:
                    continue
                if dropout:
                    torch.manual_seed(seed_for(*seed, "dropout", step))
                draws = generator(*seed, "crops", step)
                batch = training.real_batch(
                    images, indices, self.inputs, padding=padding, crop_scale=crop_scale, flip=flip, draws=draws
                )
                loss = self.train_step(batch, images.labels[indices.to(self.inputs.device)], rates[step - 1])
                self.step = step
                if step % 10 == 0 or step == total:
                    self.report.later(step, {"loss": loss})
                    self.report.progress(step, total, "steps")
                if self.report.checkpoint_due():
                    self.checkpoint(float(loss))
        self.report.flush()
        if loss is not None:
            self.check(float(loss))

    def train_step(self, batch: torch.Tensor, labels: torch.Tensor, rate: float) -> torch.Tensor:
        """Take one step of cross-entropy on a batch (B, 3, H, W) and return the loss, still on the device."""
        training.set_learning_rate(self.optimizer, rate)
        with autocast(self.inputs.device, self.inputs.precision):
            logits = self.model(batch)
        loss = functional.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def check(self, loss: float) -> None:
        """Raise RunError when the loss is not a number to go on from."""
        if not math.isfinite(loss):
            raise RunError(f"{self.folder.name}: the training loss is not a number at step {self.step}; lower the learning rate")

    def checkpoint(self, loss: float) -> None:
        """Write a checkpoint; raises Stopped when a stop is wanted, RunError when the loss is not a number."""
        self.check(loss)
        tensors = training.model_tensors(self.model) | training.optimizer_tensors(self.optimizer)
        save_checkpoint(self.folder, tensors, {"step": self.step, "scaler": self.scaler.state_dict()})
        self.report.flush()
        self.report.checkpoint_written()
        if self.report.stop_wanted():
            raise Stopped(f"{self.folder.name}: stopped at step {self.step}")

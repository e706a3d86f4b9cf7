"""Where a student's soft labels come from: stored for its views, one of every image, or asked of the observers while it trains."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.compute.transfer import sent, sent_all
from engine.data.label_rows import unpacked
from engine.data.views import Chunk
from engine.errors import RunError
from engine.files import read_json
from engine.stages.inputs import Inputs
from engine.stages.labelling import label_chunk
from engine.stages.losses import mixed_target


class SoftLabels:
    """The soft labels of an evaluation's views; without any (hard labels) `of_chunk` returns None."""

    def __init__(self, settings: dict[str, Any], inputs: Inputs, given: Tensor | None, images: int) -> None:
        """`given` are the labels (N, classes) that came with the N = `images` images, if any did."""
        self.settings, self.inputs = settings, inputs
        mode = settings.get("labels.mode")
        self.stored = self.fixed = None
        if mode == "given":
            if given is None:
                raise RunError(f"{inputs.folder('images')}: labels.mode is given, but the images came without soft labels")
            self.fixed = given.float().to(inputs.device)
        elif "labels" in inputs.folders:
            logits = np.load(inputs.folder("labels") / "logits.npy", mmap_mode="r")
            if mode == "fixed":
                if len(logits) != images:
                    raise RunError(f"{inputs.folder('labels')}: {len(logits)} labels for {images} images")
                self.fixed = torch.from_numpy(unpacked(logits, inputs.classes)).to(inputs.device)
            else:
                self.stored = logits
        self.observers = inputs.observers() if "observers" in inputs.folders else []

    def view_seed(self) -> int | None:
        """Return the seed of the views that stored labels belong to, as their step recorded it; None where any views will do."""
        return None if self.stored is None else read_json(self.inputs.folder("labels") / "done.json")["settings"]["seed"]

    def of_chunk(self, rendered: Tensor, chunk: Chunk) -> Tensor | None:
        """Return the soft labels of a chunk's rendered views (M, 3, H, W): (M, classes) float32 logits, or None."""
        if self.stored is not None:
            rows = self.stored[chunk.first_view : chunk.first_view + len(chunk.views)]
            return sent(torch.from_numpy(unpacked(rows, self.inputs.classes)), self.inputs.device)
        if self.fixed is not None:
            index, partner, share = sent_all((chunk.views.index, chunk.views.partner, chunk.views.share), self.inputs.device)
            own = self.fixed[index]
            return mixed_target(self.settings, own, own[partner], share)
        return label_chunk(self.observers, rendered, chunk, self.settings, self.inputs) if self.observers else None

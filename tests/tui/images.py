"""Files of condensed images for the tests of the screen, written without torch."""

import json

import numpy as np
from safetensors.numpy import save_file

from edc_tui.pictures import FILE_NAME, PREVIEW, step_folder

CLASSES = ("cat", "dog", "frog")
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))


def plain(classes=len(CLASSES), per_class=2, side=8, shade=1.0):
    """Images of one colour a class, uint8 (N, 3, side, side), a little darker with every image, and their labels."""
    labels = np.repeat(np.arange(classes), per_class)
    images = np.zeros((len(labels), 3, side, side), np.uint8)
    for index, label in enumerate(labels):
        colour = np.array(COLOURS[label % len(COLOURS)]) * shade * (1 - 0.2 * (index % per_class))
        images[index] = colour[:, None, None].astype(np.uint8)
    return images, labels


def write_images(path, *, classes=CLASSES, per_class=2, side=8, shade=1.0, provenance=None):
    """Write a file of plain images as the engine writes it."""
    images, labels = plain(len(classes), per_class, side, shade)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"classes": list(classes), "provenance": provenance or {}}
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"images": images, "labels": labels}, temporary, metadata={"condensed": json.dumps(facts)})
    temporary.replace(path)


def write_initial(run, **facts):
    """Write the images that a run begins with."""
    write_images(step_folder(run, "initialise") / FILE_NAME, **{"shade": 0.3} | facts)


def write_preview(run, iteration, **facts):
    """Write images as they form."""
    provenance = {"iteration": iteration, "iterations": 100}
    write_images(step_folder(run, "synthesise") / PREVIEW, provenance=provenance, **{"shade": 0.6} | facts)


def write_final(run, **facts):
    """Write finished images."""
    write_images(step_folder(run, "synthesise") / FILE_NAME, provenance={"settings": {}}, **facts)

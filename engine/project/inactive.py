"""Terms of a method that a network's way to normalise leaves without work, each in one sentence."""

from collections.abc import Iterator

from engine.models.registry import normalisation
from engine.project.schema import Project


def inactive_terms(project: Project) -> Iterator[tuple[str, str]]:
    """Yield key and sentence for what observers and students without batch normalisation leave idle.

    Networks with instance normalisation or none are not told: the papers match what enters their convolutions, as it is done here.
    """
    if project.synthesise.enabled and project.match.weight != 0:
        by_layer = [name for name in project.observers.synthesis if normalisation(name) == "layer"]
        if by_layer:
            yield (
                "match.layers",
                f"{_listed(by_layer)} normalise{'s' if len(by_layer) == 1 else ''} by layer and {_have(by_layer)} few convolutions or one: "
                "only what enters those is matched, mostly the image's own pixels; add observers with batch normalisation",
            )
    without = [name for name in project.observers.labels if normalisation(name) not in ("batch", None)]
    if project.labels.teacher_batchnorm == "train" and without == project.observers.labels:
        yield (
            "labels.teacher_batchnorm",
            f'{_listed(without)} {_have(without)} no batch normalisation, so that "train" labels as "eval" does',
        )
    idle = [name for name in project.evaluate.students if normalisation(name) not in ("batch", None)]
    if project.evaluate.ema > 0 and project.evaluate.ema_batchnorm == "online" and idle == project.evaluate.students:
        yield (
            "evaluate.ema_batchnorm",
            f"{_listed(idle)} {_have(idle)} no batch normalisation: the averaged weights are measured as they are, whatever this says",
        )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"

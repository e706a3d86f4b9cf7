"""Where observers' weights come from: what a project may say, what is refused, and which steps are the same work."""

import itertools

import pytest

from engine.data.sources import ClassIndex, Source
from engine.errors import UserError
from engine.project.checks import combination_problems
from engine.project.files import with_absolute_paths
from engine.project.inactive import inactive_terms
from engine.project.observers import absolute_weights, is_file, published, weights_of
from engine.project.planner import make_plan
from engine.project.resolve import method_names, resolve


def resolved(resolution=32, **given):
    values = {"dataset.name": "folder"} | {name.replace("__", "."): value for name, value in given.items()}
    found, problems = resolve(values, resolution=resolution)
    assert found is not None, problems
    return found


def problems(resolution=32, **given):
    return [f"{problem.key}: {problem.message}" for problem in combination_problems(resolved(resolution, **given))]


def squeezes(resolution=32, **given):
    """The fingerprint of every observer's step."""
    source = Source("folder", "tree", {}, resolution, ClassIndex(("a", "b")), (60, 60), (9, 9), "by hand", True)
    plan = make_plan(resolved(resolution, **given).project, source, device="cpu", precision="float32", until="squeeze")
    return {step.name: step.fingerprint for step in plan.steps}


class TestSources:
    def test_names_are_told_from_files(self):
        words = {"squeeze": False, "torchvision": False, "timm:a1_in1k": False, "weights/resnet18.pt": True, "torchvision.pth": True}
        assert {word: is_file(word) for word in words} == words

    def test_the_papers_weights_are_torchvisions_first(self):
        assert published("torchvision") == ("torchvision", "IMAGENET1K_V1")
        assert published("torchvision:IMAGENET1K_V2") == ("torchvision", "IMAGENET1K_V2")
        assert published("timm") == ("timm", "")

    def test_files_are_meant_from_the_projects_folder(self, tmp_path):
        given, meant = {"a": "w.pt", "b": "timm", "c": "/x/w.pt"}, {"a": f"{tmp_path}/w.pt", "b": "timm", "c": "/x/w.pt"}
        assert absolute_weights(given, tmp_path) == meant
        assert with_absolute_paths({"observers.weights": {"a": "w.pt"}}, tmp_path) == {"observers.weights": {"a": f"{tmp_path}/w.pt"}}

    def test_a_star_stands_for_the_others(self):
        project = resolved(observers__weights={"*": "timm", "resnet18": "squeeze"}).project
        assert (weights_of(project, "resnet18"), weights_of(project, "resnet50")) == ("squeeze", "timm")

    @pytest.mark.parametrize("method", method_names())
    def test_on_imagenet_1k_every_method_takes_torchvisions(self, method):
        project = resolved(224, dataset__name="imagenet-1k", condense__method=method).project
        assert all(weights_of(project, name) == "torchvision" for name in (*project.observers.synthesis, *project.observers.labels))
        assert problems(224, dataset__name="imagenet-1k", condense__method=method) == []

    def test_weights_of_one_observer_leave_the_methods_for_the_others(self):
        project = resolved(224, dataset__name="imagenet-1k", observers__weights={"resnet18": "squeeze"}).project
        assert (weights_of(project, "resnet18"), weights_of(project, "alexnet")) == ("squeeze", "torchvision")


class TestRefusals:
    @pytest.mark.parametrize(
        ("resolution", "given", "said"),
        [
            (32, {"weights": {"resnet19": "squeeze"}}, "observers.weights: resnet19 is none of the observers; did you mean resnet18?"),
            (32, {"weights": {"resnet18": "/nowhere/w.pt"}}, "observers.weights: resnet18: there is no file /nowhere/w.pt"),
            (32, {"weights": {"resnet18": "/x/torchvison"}}, "neither a source nor a file in .safetensors, .pt, .pth; did you mean t"),
            (32, {"weights": {"resnet18": "torchvision"}}, "torchvision's weights are for 128 px and more"),
            (224, {"weights": {"resnet18": "timm"}}, "resnet18 is no network of timm; use 'torchvision' or 'squeeze', or a file"),
            (224, {"weights": {"resnet18": "squeeze:V2"}}, "squeeze has no 'V2'"),
            (32, {"accuracy": {"resnet18": 94}}, "observers.accuracy: resnet18 is trained here, and that leaves this without effect"),
            (32, {"normalisation": {"resnet18": "half"}}, "observers.normalisation: resnet18 is trained here"),
        ],
    )
    def test_are_one_line_that_names_what_would_be_right(self, resolution, given, said):
        (found,) = problems(resolution, **{f"observers__{name}": value for name, value in given.items()})
        assert said in found
        assert "\n" not in found

    @pytest.mark.parametrize("value", [[0.5, 0.5], [0.5, 0.5, 0.5, 0.0, 1.0, 1.0], "imagnet"])
    def test_of_a_normalisation_that_is_none(self, value, tmp_path):
        (tmp_path / "w.pt").touch()
        given = {"observers.weights": {"resnet18": str(tmp_path / "w.pt")}, "observers.normalisation": {"resnet18": value}}
        found, wrong = resolve({"dataset.name": "folder"} | given, resolution=32)
        wrong = wrong or combination_problems(found)
        assert [problem.key for problem in wrong] == ["observers.normalisation"]

    def test_of_a_file_that_went_away(self, tmp_path):
        with pytest.raises(UserError, match=r"observers.weights: resnet18: .*w.pt: cannot be read: No such file"):
            squeezes(observers__weights={"resnet18": str(tmp_path / "w.pt")})


class TestSharing:
    """Two projects that name the same observer under the same recipe have one step for it."""

    @pytest.mark.parametrize(("one", "other"), list(itertools.combinations(["edc", "random", "g-vbsm", "rded", "sre2l", "config-f"], 2)))
    def test_methods_share_squeezed_observers(self, one, other):
        mine, others = squeezes(condense__method=one), squeezes(condense__method=other)
        shared = mine.keys() & others.keys()
        assert "resnet18" in shared
        assert all(mine[name] == others[name] for name in shared)

    def test_what_makes_no_observer_leaves_them_as_they_are(self):
        assert squeezes() == squeezes(condense__ipc=3, condense__seed=7, synthesise__iterations=5, evaluate__epochs=2)

    def test_a_files_content_counts_and_not_where_it_lies(self, tmp_path):
        (tmp_path / "a.pt").write_bytes(b"one")
        (tmp_path / "b.pt").write_bytes(b"one")
        (tmp_path / "c.pt").write_bytes(b"two")
        one, same, other = (squeezes(observers__weights={"resnet18": str(tmp_path / f"{name}.pt")})["resnet18"] for name in "abc")
        assert one == same != other

    def test_an_observer_from_a_file_needs_no_recipe_to_be_shared(self, tmp_path):
        (tmp_path / "a.pt").write_bytes(b"one")
        weights = {"resnet18": str(tmp_path / "a.pt")}
        assert squeezes(observers__weights=weights)["resnet18"] == squeezes(observers__weights=weights, squeeze__epochs=99)["resnet18"]
        assert squeezes(observers__weights=weights)["convnet-w128"] == squeezes()["convnet-w128"]

    def test_fingerprints_of_earlier_versions_still_count(self):
        """Those of the release before weights from elsewhere could be named: cached observers must not be trained again."""
        assert squeezes(observers__synthesis=["resnet18"], observers__labels=["resnet18"]) == {"resnet18": BEFORE}


BEFORE = "83b75f551012a7c9f28cd042c1b0f247"


class TestNetworksWithoutBatchNorm:
    def told(self, resolution=32, **given):
        return [f"{key}: {text}" for key, text in inactive_terms(resolved(resolution, **given).project)]

    def test_observers_of_the_papers_need_no_word(self):
        assert self.told() == []
        assert self.told(224) == []

    def test_one_that_normalises_by_layer_has_little_to_match(self):
        (said,) = self.told(observers__synthesis=["resnet18", "swin-tiny"])
        assert said.startswith("match.layers: swin-tiny normalises by layer and has few convolutions or one: only what enters those")

    def test_teachers_without_it_label_alike_in_either_mode(self):
        (said,) = self.told(observers__labels=["convnet-w128"], labels__teacher_batchnorm="train")
        assert 'convnet-w128 has no batch normalisation, so that "train" labels as "eval" does' in said

    def test_students_without_it_have_no_statistics_to_take(self):
        (said,) = self.told(evaluate__students=["deit-tiny", "swin-tiny"], evaluate__ema_batchnorm="online")
        assert "deit-tiny and swin-tiny have no batch normalisation" in said

    def test_running_statistics_alone_cannot_be_matched_in_them(self):
        (said,) = problems(match__layers="bn", match__patch_size=0, observers__synthesis=["swin-tiny"])
        assert said.startswith('observers.synthesis: match.layers = "bn" matches nothing in swin-tiny')


def test_the_order_in_which_class_folders_were_made_changes_nothing(tmp_path):
    """The order of a folder's listing is none of the classes' order, in which observers name them."""
    from engine.data.sources import locate

    found = []
    for name, order in (("one", ("cat", "dog", "owl")), ("other", ("owl", "cat", "dog"))):
        for split, label in itertools.product(("train", "test"), order):
            write_picture(tmp_path / name / split / label / "0.png", sorted(order).index(label))
        found.append(locate("folder", tmp_path / name, tmp_path, 32))
    one, other = found
    assert one.classes.names == other.classes.names == ("cat", "dog", "owl")
    assert one.fingerprint == other.fingerprint


def write_picture(path, red):
    from PIL import Image

    path.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32), (red, 0, 0)).save(path)

"""From a few given values to a whole project: who wins, where each value came from, and what is refused."""

import pytest

from engine.errors import UserError
from engine.project import resolve as resolving
from engine.project.files import load_project
from engine.project.resolve import flatten, layer_values, load_method, load_profile, method_names, resolve, unflatten
from engine.project.schema import keys

HEAD = 'title = "T"\nsummary = "S."\npaper = "P"\n'


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return a function that writes method files (name -> text) into a folder that stands for the shipped ones."""
    monkeypatch.setattr(resolving, "METHODS", tmp_path / "methods")
    monkeypatch.setattr(resolving, "COMPAT", tmp_path / "compat")
    load_method.cache_clear()
    load_profile.cache_clear()

    def write(compat: dict[str, str] | None = None, **methods: str):
        for folder, texts, head in (("methods", methods, HEAD), ("compat", compat or {}, 'summary = "S."\nmethods = ["m"]\n')):
            (tmp_path / folder).mkdir(exist_ok=True)
            for name, text in texts.items():
                (tmp_path / folder / f"{name}.toml").write_text(head + text)

    yield write
    load_method.cache_clear()
    load_profile.cache_clear()


def values_of(resolution=32, **given):
    flat = {"condense.method": "m"} | {name.replace("__", "."): value for name, value in given.items()}
    resolved, problems = resolve(flat, resolution=resolution)
    assert problems == []
    return flatten(resolved.project.model_dump()), resolved


def problems_of(given):
    resolved, problems = resolve(given, resolution=32)
    assert resolved is None
    return {problem.key: problem.message for problem in problems}


def test_later_sources_win_in_their_order(files, tmp_path):
    """Each of six keys is set by one source more than the one before: default, method, condition, compat, project, --set."""
    names = ["match.weight", "synthesise.iterations", "evaluate.epochs", "batch.size", "squeeze.epochs", "squeeze.batch_size"]
    sources = ["default", "method m", "method m", "compat edc-head", "project", "--set"]

    def toml(first, value, prefix=""):
        return "".join(f"[{prefix}{name.split('.')[0]}]\n{name.split('.')[1]} = {value}\n" for name in names[first:4]) + (
            f"[{prefix}squeeze]\nepochs = {value}\nbatch_size = {value}\n"
        )

    files(
        compat={"edc-head": toml(3, 13, "set.")},
        m=toml(1, 11, "set.") + '[[when]]\ndataset = ["digits"]\n' + toml(2, 12, "when.set."),
    )
    project = tmp_path / "p.toml"
    project.write_text('[condense]\nmethod = "m"\ncompat = "edc-head"\n[squeeze]\nepochs = 14\nbatch_size = 14\n')
    resolved = load_project(project, ["squeeze.batch_size=15"])
    values = flatten(resolved.project.model_dump())
    assert [values[name] for name in names] == [0.01, 11, 12, 13, 14, 15]
    assert [resolved.origins[name] for name in names] == sources
    assert [resolved.method_values[name] for name in names] == [0.01, 11, 12, 13, 13, 13]


def test_every_key_has_an_origin(files):
    files(m="")
    assert list(values_of()[1].origins) == list(keys())


def test_conditions_are_dataset_images_per_class_and_resolution(files):
    files(
        m="""
[[when]]
dataset = ["cifar10", "digits"]
[when.set.match]
weight = 1.0
[[when]]
ipc = [10, 49]
[when.set.match]
first_multiplier = 2.0
[[when]]
resolution = [128, 1024]
[when.set.match]
patch_size = 16
[[when]]
dataset = ["cifar10"]
ipc = [1, 1]
[when.set.match]
weight = 3.0
"""
    )

    def seen(dataset, ipc, resolution):
        values, _ = values_of(dataset__name=dataset, condense__ipc=ipc, resolution=resolution)
        return values["match.weight"], values["match.first_multiplier"], values["match.patch_size"]

    assert seen("cifar10", 9, 32) == (1.0, 10.0, 4)
    assert seen("digits", 10, 127) == (1.0, 2.0, 4)
    assert seen("folder", 49, 128) == (0.01, 2.0, 16)
    assert seen("folder", 50, 1024) == (0.01, 10.0, 16)
    assert seen("cifar10", 1, 32) == (3.0, 10.0, 4)


def test_a_learning_rate_for_all_students_takes_away_what_was_said_before_of_single_ones(files):
    rates, name = {"resnet50": 0.2}, "evaluate.student_learning_rates"
    files(
        base='[set.evaluate]\nlearning_rate = 0.1\nstudent_learning_rates = {resnet50 = 0.2}\n',
        m='extends = "base"\n[[when]]\ndataset = ["cifar10"]\n[when.set.evaluate]\nlearning_rate = 0.3\n',
        compat={"edc-head": '[[when]]\nipc = [1, 1]\n[when.set.evaluate]\nlearning_rate = 0.4\n'},
    )
    assert values_of()[0][name] == rates
    assert values_of(dataset__name="cifar10")[0][name] == {}
    assert values_of(condense__compat="edc-head")[0][name] == rates
    assert values_of(condense__compat="edc-head", condense__ipc=1)[0][name] == {}
    values, resolved = values_of(evaluate__learning_rate=0.5)
    assert (values[name], resolved.origins[name], resolved.method_values[name]) == ({}, "default", rates)
    both = {"evaluate__learning_rate": 0.5, "evaluate__student_learning_rates": {"resnet50": 0.6}}
    assert values_of(**both)[0][name] == {"resnet50": 0.6}


def test_a_method_extends_another_and_overrides_even_its_conditions(files):
    files(
        base='[set.match]\nweight = 1.0\n[[when]]\ndataset = ["digits"]\n[when.set.match]\nweight = 2.0\nfirst_multiplier = 2.0\n',
        middle='extends = "base"\n[set.synthesise]\niterations = 7\n',
        m='extends = "middle"\n[set.match]\nweight = 3.0\n',
    )
    values, resolved = values_of(dataset__name="digits")
    assert (values["match.weight"], values["match.first_multiplier"], values["synthesise.iterations"]) == (3.0, 2.0, 7)
    assert resolved.origins["synthesise.iterations"] == "method m"


def test_a_compat_profile_extends_another(files):
    files(
        compat={
            "edc-head": "[set.match]\nweight = 5.0\nfirst_multiplier = 5.0\n[[when]]\nipc = [1, 1]\n[when.set.synthesise]\niterations=5\n",
            "edc-9836066": 'extends = "edc-head"\n[set.match]\nweight = 6.0\n',
        },
        m="",
    )
    values, _ = values_of(condense__compat="edc-9836066", condense__ipc=1)
    assert (values["match.weight"], values["match.first_multiplier"], values["synthesise.iterations"]) == (6.0, 5.0, 5)
    assert values_of(condense__compat="edc-9836066")[0]["synthesise.iterations"] == 2000


def test_a_compat_profile_is_refused_for_methods_of_another_release(files):
    files(compat={"edc-head": ""}, m="", other="")
    assert problems_of({"condense.method": "other", "condense.compat": "edc-head"}) == {
        "condense.compat": 'edc-head is a state of the release of m, not of other; use "fixed"'
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[set.match]\nwieght = 1\n", "m.toml: match.wieght: no such key; did you mean match.weight?"),
        ("[set.mach]\nweight = 1\n", "m.toml: mach.weight: no such section; did you mean match?"),
        ("[[when]]\ndatset = ['digits']\n", "m.toml: unknown condition datset; conditions are dataset, ipc and resolution"),
        ("[[when]]\ndataset = 'digits'\n", "m.toml: dataset = 'digits' must be a list of names"),
        ("[[when]]\nipc = [1]\n", "m.toml: ipc = [1] must be a list of two numbers"),
        ("[[wenn]]\nipc = [1, 1]\n", "m.toml: wenn is nothing that such a file may hold; did you mean when?"),
        ("extends = 'n'\n", "m.toml: cannot extend 'n'; choose one of: "),
        ("extends = 'm'\n", "m.toml: cannot extend 'm'; choose one of: "),
        ("set = \n", "m.toml: Invalid value (at line 4, column 7)"),
    ],
)
def test_a_method_file_with_a_mistake_is_refused_rather_than_half_read(files, text, message):
    files(m=text)
    with pytest.raises(UserError) as error:
        load_method("m")
    assert str(error.value) == message


def test_a_method_file_without_a_title_is_refused(files, tmp_path):
    files(m="")
    (tmp_path / "methods" / "m.toml").write_text('summary = "S."\npaper = "P"\n')
    with pytest.raises(UserError, match="m.toml: title is missing"):
        load_method("m")


def test_adding_a_file_adds_a_method(files):
    files(m="", n="")
    assert method_names() == ["m", "n"]
    assert load_method("n").title == "T"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"match.wieght": 1}, "no such key; did you mean match.weight?"),
        ({"evaluate.weight": 1}, "no such key; did you mean evaluate.ce_weight?"),
        ({"evaluate.ipc": 1}, "no such key; did you mean condense.ipc?"),
        ({"save.seeds": 1}, "no such key; did you mean evaluate.seeds?"),
        ({"prior.xyz": 1}, "no such key; [prior] has: tv, l2"),
        ({"evalute.zeta": 1}, "no such section; did you mean evaluate?"),
        ({"iterations": 1}, "no such key; did you mean synthesise.iterations?"),
        ({"seed": 1}, "no such key; did you mean condense.seed or squeeze.seed?"),
        ({"shema": 1}, "no such key; did you mean schema?"),
        ({"match": 3}, "3 must be a table: [match] on a line of its own, its keys below"),
        ({"condense.method": "ecd"}, "no method is called 'ecd'; did you mean edc?"),
        ({"evaluate.loss": "mse"}, "'mse' is not a choice; did you mean mse_ce?"),
        ({"evaluate.controls": ["rnd"]}, "'rnd' is not a choice; did you mean random?"),
        ({"evaluate.loss": "zzz"}, "'zzz' is not a choice; choose one of: mse_ce, kl, dist, ce"),
        ({"evaluate.zeta": 0.5}, "0.5 must be at least 1"),
        ({"match.ema_momentum": 1.0}, "1.0 must be less than 1"),
        ({"flatness.tau": 0.0}, "0.0 must be greater than 0"),
        ({"save.quality": 101}, "101 must be at most 100"),
        ({"condense.ipc": 1.5}, "1.5 must be a whole number"),
        ({"match.weight": "1"}, "'1' must be a number or \"auto\""),
        ({"match.weight": float("inf")}, 'inf must be a finite number or "auto"'),
        ({"augment.flip": "yes"}, "'yes' must be true or false"),
        ({"dataset.name": 7}, "7 must be a text in quotes"),
        ({"evaluate.students": "resnet18"}, "'resnet18' must be a list in [ ]"),
        ({"evaluate.students": []}, "[] must have at least 1 entry"),
        ({"labels.crop_scale": [0.5]}, "[0.5] must have at least 2 entries"),
        ({"labels.crop_scale": [0.5, 1.0, 1.0]}, "[0.5, 1.0, 1.0] must have at most 2 entries"),
        ({"condense.ipc": "x" * 500}, "'" + "x" * 58 + "… must be a whole number"),
    ],
)
def test_a_problem_names_its_key_and_what_would_be_right(given, message):
    (name,) = given
    assert problems_of(given) == {name: message}


def test_all_problems_are_told_at_once():
    found = problems_of({"condense.ipc": 0, "match.wieght": 1, "evaluate.zeta": 0.0, "match.weight": "a"})
    assert list(found) == ["match.wieght", "condense.ipc", "match.weight", "evaluate.zeta"]


def test_flat_and_nested_values_are_the_same_thing():
    nested = {"title": "t", "match": {"weight": 1.0}, "evaluate": {"seeds": [0], "zeta": 2.0}}
    assert unflatten(flatten(nested)) == nested


def test_layers_without_values_set_nothing():
    assert layer_values(({"dataset": ["digits"]},), dataset="digits", ipc=1, resolution=16) == {}

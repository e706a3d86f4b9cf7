"""Project files: messages that say where, values typed on a command line, and edits that touch nothing else."""

import os
import random
import string
import tomllib
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.project.files import edit_project, edited, line_of, load_project, new_project_text, parse_override, read_values, statements
from engine.project.resolve import flatten, method_names
from engine.project.schema import keys

WHOLE = """\
# A project with a little of everything.
schema = 1
title = "of everything"      # for people

[dataset]
name = "digits"

[condense]
method = "edc"
ipc = 1

# what trains the student
[evaluate]
epochs = 3                   # few
seeds = [
    0,                       # the first
    1,
]
zeta = 1.5
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes a project file in the working folder and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("p.toml").write_bytes(text.encode())
        return Path("p.toml")

    return write


def refusal(path, overrides=()):
    with pytest.raises(UserError) as error:
        load_project(path, list(overrides))
    return str(error.value)


class TestMessages:
    def test_a_good_file_is_read(self, project):
        resolved = load_project(project(WHOLE))
        assert (resolved.project.evaluate.zeta, resolved.project.evaluate.seeds, resolved.resolution) == (1.5, [0, 1], 16)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[match]\nweight = 1\nwieght = 2\n", "p.toml:3: match.wieght: no such key; did you mean match.weight?"),
            ("# x\n[evalute]\n", None),
            ("# x\n[evalute]\nzeta = 2.0\n", "p.toml:3: evalute.zeta: no such section; did you mean evaluate?"),
            ("iterations = 3\n", "p.toml:1: iterations: no such key; did you mean synthesise.iterations?"),
            ("\n[condense]\nipc = '10'\n", "p.toml:3: condense.ipc: '10' must be a whole number"),
            ("[match]\nema_momentum = 1.0\n", "p.toml:2: match.ema_momentum: 1.0 must be less than 1"),
            ("[evaluate]\nloss = 'mse'\n", "p.toml:2: evaluate.loss: 'mse' is not a choice; did you mean mse_ce?"),
            ("[condense]\nmethod = 'ecd'\n", "p.toml:2: condense.method: no method is called 'ecd'; did you mean edc?"),
            ("[match]\nweight = nan\n", 'p.toml:2: match.weight: nan must be a finite number or "auto"'),
            ("match = 3\n", "p.toml:1: match: 3 must be a table: [match] on a line of its own, its keys below"),
            ("\n[[match]]\nweight = 1\n", "p.toml:2: match: [{'weight': 1}] must be a table: [match] on a line of its own, its keys below"),
            ("match = { wieght = 1 }\n", "p.toml:1: match.wieght: no such key; did you mean match.weight?"),
            ("match.wieght = 1\n", "p.toml:1: match.wieght: no such key; did you mean match.weight?"),
            ("[match.tiles]\nsize = 4\n", None),
            ("title = 3\n", "p.toml:1: title: 3 must be a text in quotes"),
            ("[dataset]\nname = ['digits']\n", "p.toml:2: dataset.name: ['digits'] must be a text in quotes"),
            ("schema = 2\n", "p.toml:1: schema is 2; this version of edc reads schema = 1"),
            ("\nschema = '1'\n", "p.toml:2: schema is '1'; this version of edc reads schema = 1"),
            ("schema = true\n", "p.toml:1: schema is True; this version of edc reads schema = 1"),
            ("a = 1\nb = = 2\n", "p.toml:2: not valid TOML: Invalid value (at line 2, column 5)"),
            ("a = 1\nb =\n", "p.toml:2: not valid TOML: Invalid value (at line 2, column 4)"),
            ("a = 1\n\nb = [1,", "p.toml:3: not valid TOML: Invalid value (at end of document)"),
            ("[match]\nweight = 1\nweight = 2\n", "p.toml:3: not valid TOML: Cannot overwrite a value (at line 3, column 11)"),
        ],
    )
    def test_a_mistake_is_one_line_that_names_file_line_and_key(self, project, text, message):
        if message is None:  # an empty section of a wrong name says nothing; a table within a section does
            if "tiles" in text:
                assert refusal(project(text)).startswith("p.toml:1: match.tiles: no such key")
            else:
                load_project(project(text))
        else:
            assert refusal(project(text)) == message

    def test_an_absurdly_deep_or_long_value_is_refused_and_does_not_crash(self, project):
        assert refusal(project("a = " + "[" * 5000)).startswith("p.toml:1: not valid TOML: ")
        assert refusal(project("a = " + "9" * 5000)).startswith("p.toml:1: not valid TOML: ")

    def test_each_of_several_mistakes_has_a_line(self, project):
        lines = refusal(project("[condense]\nipc = 0\n[match]\nwieght = 1\n[evaluate]\nzeta = 0\n")).split("\n")
        assert [line.split(": ")[:2] for line in lines] == [
            ["p.toml:4", "match.wieght"],
            ["p.toml:2", "condense.ipc"],
            ["p.toml:6", "evaluate.zeta"],
        ]

    def test_a_missing_file_names_the_nearest_or_how_to_write_one(self, project):
        project(WHOLE)
        assert refusal(Path("q.toml")) == "q.toml: no such project file; `edc new q` writes one"
        Path("quickstart.toml").write_text(WHOLE)
        assert refusal(Path("quikstart.toml")) == "quikstart.toml: no such project file; did you mean quickstart.toml?"

    def test_a_path_may_be_a_text(self, project):
        assert load_project(str(project("[match]\nweight = 3\n"))).project.match.weight == 3

    def test_what_is_no_text_is_refused(self, project, tmp_path):
        assert refusal(tmp_path).endswith("cannot be read: Is a directory")
        Path("p.toml").write_bytes(b"title = '\xff'\n")
        assert refusal(Path("p.toml")) == "p.toml: is not text in UTF-8 (byte 9)"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_without_permission_is_refused(self, project):
        path = project(WHOLE)
        path.chmod(0)
        assert refusal(path) == "p.toml: cannot be read: Permission denied"

    def test_a_mistake_on_the_command_line_is_called_that(self, project):
        path = project(WHOLE)
        assert refusal(path, ["evaluate.zeta=0"]) == "--set evaluate.zeta: 0 must be at least 1"
        assert refusal(path, ["evaluate.zta=2"]) == "--set evaluate.zta: no such key; did you mean evaluate.zeta?"
        assert refusal(path, ["zeta=2"]) == "--set zeta: no such key; did you mean evaluate.zeta?"
        assert refusal(path, ["schema=2"]).startswith("--set schema: no such key; choose one of: ")

    def test_a_combination_is_refused_where_its_key_stands(self, project):
        text = '[evaluate]\nschedule = "multistep"\nzeta = 2.0\n'
        right = 'evaluate.zeta: 2.0 would have no effect: needs evaluate.schedule = "cosine", "ssrs" or "linear_zeta"'
        assert refusal(project(text)) == f"p.toml:3: {right}"
        assert refusal(project('[evaluate]\nschedule = "multistep"\n'), ["evaluate.zeta=2"]) == f"--set {right}"

    def test_a_key_of_the_file_may_lose_its_effect_by_the_command_line(self, project):
        """A project is tried with another schedule or another method without editing it; its other keys are still held to account."""
        path = project('[condense]\nipc = 1\n[evaluate]\nschedule = "cosine"\nzeta = 2.0\nce_weight = 0.1\n[match]\nema_start = "zero"\n')
        load_project(path, ["evaluate.schedule=multistep"])
        load_project(path, ["condense.method=sre2l"])
        assert refusal(path, ["match.ema_momentum=0", "evaluate.loss=kl", "evaluate.ce_weight=1"]).startswith("--set evaluate.ce_weight: ")
        assert refusal(project('[match]\nema_momentum = 0.0\nema_start = "zero"\n'), ["evaluate.zeta=2"]).startswith(
            "p.toml:3: match.ema_start: "
        )

    def test_reading_changes_nothing(self, project):
        path = project(WHOLE)
        load_project(path, ["evaluate.zeta=2.5"])
        assert path.read_text() == WHOLE
        assert [entry.name for entry in Path().iterdir()] == ["p.toml"]

    def test_the_working_resolution_is_the_projects_or_the_datasets(self, project):
        assert load_project(project('[dataset]\nname = "fashion-mnist"\n')).resolution == 32
        assert load_project(project('[dataset]\nname = "digits"\nresolution = 32\n')).resolution == 32
        assert load_project(project('[dataset]\nname = "unheard-of"\n')).resolution == 32


class TestLines:
    def test_a_line_is_found_whatever_the_layout(self):
        text = '"title" = "x"\nmatch.weight = 1\n\n[ evaluate ]   # c\n  zeta=2\n"ema" = 0.9\n[save]\n# format = "png"\nformat = "jpeg"\n'
        places = {"title": 1, "match.weight": 2, "evaluate.zeta": 5, "evaluate.ema": 6, "save.format": 9}
        assert {name: line_of(text, name) for name in places} == places

    def test_a_key_that_is_not_set_has_its_sections_line_or_none(self):
        assert line_of(WHOLE, "evaluate.loss") == 13
        assert line_of(WHOLE, "match.weight") is None

    def test_what_looks_like_a_key_inside_a_value_or_comment_is_none(self):
        text = 'title = """\n[match]\nweight = 1\n"""\n[evaluate]\nseeds = [\n  0, # [match]\n]\n[match]\n# weight = 0\nweight = 2\n'
        assert line_of(text, "match.weight") == 11
        assert line_of(text, "evaluate.seeds") == 6

    def test_other_line_endings_count_as_one(self):
        assert line_of("a = 1\r\n\r\n[match]\r\nweight = 1\r\n", "match.weight") == 4
        assert line_of("title = 'a\u2028b'\n[match]\nweight = 1\n", "match.weight") == 3


class TestOverrides:
    @pytest.mark.parametrize(
        ("item", "value"),
        [
            ("evaluate.zeta=1.5", 1.5),
            (" evaluate.zeta = 2 ", 2),
            ("synthesise.learning_rate=1e-3", 1e-3),
            ("augment.flip=false", False),
            ("condense.method=edc", "edc"),
            ('condense.method="edc"', "edc"),
            ("condense.method='edc'", "edc"),
            ("condense.compat=edc-9836066", "edc-9836066"),
            ("dataset.root=/data/my images", "/data/my images"),
            ("dataset.root=2024-01-02", "2024-01-02"),
            ("dataset.root=7", "7"),
            ("dataset.root=a=b", "a=b"),
            ("title=3", "3"),
            ("evaluate.seeds=0,1,2", [0, 1, 2]),
            ("evaluate.seeds=[0, 1]", [0, 1]),
            ("evaluate.seeds=5", [5]),
            ("evaluate.controls=[]", []),
            ("evaluate.students=resnet18, convnet-d3-w64-bn", ["resnet18", "convnet-d3-w64-bn"]),
            ("evaluate.students=[resnet18,wrn-16-2]", ["resnet18", "wrn-16-2"]),
            ('evaluate.students=["resnet18"]', ["resnet18"]),
            ("labels.crop_scale=0.5,1", [0.5, 1]),
            ('evaluate.student_learning_rates={resnet18=1e-3, "shufflenet-v2-0.5"=2e-3}', {"resnet18": 1e-3, "shufflenet-v2-0.5": 2e-3}),
            ("match.weight=many", "many"),
        ],
    )
    def test_values_are_toml_and_bare_words_are_text(self, item, value):
        name, read = parse_override(item)
        assert name == item.partition("=")[0].strip()
        assert read == value
        assert type(read) is type(value)

    @pytest.mark.parametrize("item", ["evaluate.zeta", "evaluate.zeta=", "=3", "", "="])
    def test_what_is_no_assignment_is_refused_with_an_example(self, item):
        with pytest.raises(UserError, match="must be section.key=value, for instance --set evaluate.zeta=1.5"):
            parse_override(item)

    def test_the_last_one_wins(self, project):
        assert load_project(project(WHOLE), ["evaluate.zeta=2", "evaluate.zeta=3"]).project.evaluate.zeta == 3.0


class TestTheDatasetsRoot:
    """A relative one is meant from the project file's folder; the run then finds its images wherever it is resumed from."""

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("/data/flowers", "/data/flowers"),
            ("flowers", "{file}/flowers"),
            ("../flowers", "{file}/../flowers"),
            ("~/flowers", "{home}/flowers"),
            ("~nobody-of-this-name/flowers", "{file}/~nobody-of-this-name/flowers"),
        ],
    )
    def test_of_a_file_is_meant_from_its_folder(self, tmp_path, monkeypatch, written, expected):
        (tmp_path / "projects").mkdir()
        (tmp_path / "projects" / "p.toml").write_text(f"[dataset]\nname = 'folder'\nroot = '{written}'\n")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for working in (tmp_path, tmp_path / "projects"):
            monkeypatch.chdir(working)
            for path in (tmp_path / "projects" / "p.toml", Path(os.path.relpath(tmp_path / "projects" / "p.toml"))):
                places = {"file": tmp_path / "projects", "home": tmp_path / "home"}
                assert load_project(path).project.dataset.root == expected.format(**places)

    def test_of_the_command_line_is_meant_from_the_working_folder(self, tmp_path, monkeypatch):
        (tmp_path / "p.toml").write_text("[dataset]\nname = 'folder'\nroot = 'a'\n")
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        loaded = load_project(tmp_path / "p.toml", ["dataset.root=b"])
        assert loaded.project.dataset.root == str(tmp_path / "here" / "b")
        assert loaded.origins["dataset.root"] == "--set"

    @pytest.mark.parametrize("line", ["", "root = 3\n", "root = ''\n"])
    def test_of_another_kind_is_left_to_the_schema(self, tmp_path, line):
        (tmp_path / "p.toml").write_text(f"[dataset]\nname = 'digits'\n{line}")
        if "3" in line:
            with pytest.raises(UserError, match=r"p.toml:3: dataset.root"):
                load_project(tmp_path / "p.toml")
        else:
            assert not load_project(tmp_path / "p.toml").project.dataset.root


class TestEditing:
    def test_a_changed_value_keeps_its_comment_and_all_other_lines(self):
        assert edited(WHOLE, {"evaluate.epochs": 40}) == WHOLE.replace("epochs = 3 ", "epochs = 40 ")
        assert edited(WHOLE, {"title": "new"}) == WHOLE.replace('"of everything"', '"new"')

    def test_a_value_over_several_lines_is_replaced_whole(self):
        before, after = WHOLE.split("seeds = [")[0], WHOLE.split("]\nzeta")[1]
        assert edited(WHOLE, {"evaluate.seeds": [7]}) == f"{before}seeds = [7]\nzeta{after}"

    def test_true_becomes_false(self):
        assert edited("[augment]\nflip = true  # c\n", {"augment.flip": False}) == "[augment]\nflip = false  # c\n"

    def test_a_new_key_comes_after_the_last_of_its_section(self):
        assert edited(WHOLE, {"condense.seed": 4}) == WHOLE.replace("ipc = 1\n", "ipc = 1\nseed = 4\n")
        assert edited(WHOLE, {"evaluate.ema": 0.5}) == WHOLE + "ema = 0.5\n"

    def test_a_new_key_comes_after_a_value_over_several_lines(self):
        text = "[evaluate]\nseeds = [\n  0,\n]  # c\n\n# about match\n[match]\n"
        assert edited(text, {"evaluate.zeta": 2.0}) == text.replace("]  # c\n", "]  # c\nzeta = 2.0\n")

    def test_a_new_key_is_indented_as_the_one_before(self):
        assert edited("[match]\n    weight = 1\n", {"match.norm": "l2"}) == '[match]\n    weight = 1\n    norm = "l2"\n'

    def test_a_missing_section_is_begun_at_the_end(self):
        assert edited(WHOLE, {"save.format": "png"}) == WHOLE + '\n[save]\nformat = "png"\n'
        assert edited("", {"save.format": "png"}) == '[save]\nformat = "png"\n'
        assert edited("schema = 1", {"save.format": "png"}) == 'schema = 1\n\n[save]\nformat = "png"\n'

    def test_a_missing_title_comes_before_all_sections(self):
        assert edited("schema = 1\n\n# about\n[match]\n", {"title": "t"}) == 'schema = 1\ntitle = "t"\n\n# about\n[match]\n'
        assert edited("[match]\n", {"title": "t"}) == 'title = "t"\n\n[match]\n'

    def test_none_removes_a_key_with_its_comment(self):
        assert edited(WHOLE, {"evaluate.epochs": None}) == WHOLE.replace("epochs = 3                   # few\n", "")
        assert edited(WHOLE, {"evaluate.ema": None, "save.format": None, "match.weight": None}) == WHOLE

    def test_an_inline_table_and_dotted_keys_are_edited_in_their_form(self):
        assert tomllib.loads(edited("match = { weight = 1.0 } # c\n", {"match.weight": 2.0, "match.norm": "l2"})) == {
            "match": {"weight": 2.0, "norm": "l2"}
        }
        assert edited("match.weight = 1.0 # c\nsave.quality = 3\n", {"match.weight": 2.0, "match.norm": "l2"}) == (
            'match.weight = 2.0 # c\nmatch.norm = "l2"\nsave.quality = 3\n'
        )

    def test_line_endings_stay_as_they_are(self):
        text = WHOLE.replace("\n", "\r\n")
        assert edited(text, {"evaluate.epochs": 40}) == text.replace("epochs = 3 ", "epochs = 40 ")
        assert edited(text, {"evaluate.ema": 0.5}) == text + "ema = 0.5\r\n"
        assert edited(text, {"save.quality": 5}) == text + "\r\n[save]\r\nquality = 5\r\n"

    def test_what_is_no_table_is_not_edited(self):
        for text in ("match = 3\n", "[[match]]\nweight = 1\n"):
            with pytest.raises(UserError, match="match: must be a table"):
                edited(text, {"match.weight": 2.0})

    def test_a_file_is_replaced_as_a_whole_or_left_alone(self, project):
        path = project(WHOLE.replace("\n", "\r\n"))
        edit_project(path, {"evaluate.zeta": 2.5})
        assert path.read_bytes() == WHOLE.replace("\n", "\r\n").replace("1.5", "2.5").encode()
        broken = project("a = = 1\n")
        with pytest.raises(UserError, match=r"p.toml: not valid TOML"):
            edit_project(broken, {"evaluate.zeta": 2.5})
        assert broken.read_text() == "a = = 1\n"
        with pytest.raises(UserError, match="no such project file"):
            edit_project(Path("none.toml"), {"evaluate.zeta": 2.5})
        assert [entry.name for entry in Path().iterdir()] == ["p.toml"]

    @pytest.mark.parametrize("seed", range(40))
    def test_any_edit_sets_its_value_and_touches_no_other_line(self, seed):
        """Random files under random edits, against a plain dictionary and a comparison of lines."""
        draws = random.Random(seed)
        text = random_text(draws)
        model = flatten(tomllib.loads(text))
        for _ in range(25):
            name = draws.choice([*keys(), "title", *model, *model])
            value = None if draws.random() < 0.25 else random_value(draws)
            after = edited(text, {name: value})
            expected = {other: held for other, held in model.items() if other != name} | ({} if value is None else {name: value})
            assert flatten(tomllib.loads(after)) == expected
            assert_only(name, text, after, existed=name in model, removed=value is None)
            text, model = after, expected


def assert_only(name, before, after, *, existed, removed):
    """Check that every line stayed but those of one key, which changed, went, or came with at most a header and blank lines."""
    old, new = before.split("\n"), after.split("\n")
    if existed:
        first = line_of(before, name) - 1
        following = [number - 1 for number, _ in statements(before) if number - 1 > first]
        own = old[first : following[0] if following else len(old)]
        rest = old[following[0] :] if following else [""] * removed  # the line break before a last line stays when that goes
        assert new[:first] == old[:first]
        assert new[first + (0 if removed else 1) :] == rest
        if not removed:
            assert new[first].split("=")[0] == own[0].split("=")[0]
            assert new[first].endswith(own[-1][own[-1].find("#") :] if "#" in own[-1] else new[first])
    elif removed:
        assert after == before
    else:
        came = [line for line in new if line.strip()]
        for line in old:
            if line.strip():
                came.remove(line)
        section, _, leaf = name.rpartition(".")
        assert came[-1].split("=")[0].strip() == leaf
        assert came[:-1] == ([f"[{section}]"] if section and f"[{section}]" not in before else [])
        in_order = iter(new)
        assert all(line in in_order for line in old if line.strip())
        assert len(new) - len(old) <= 2 + 2 * (len(came) - 1)  # the key, its header, a blank line, the file's last line ending


def random_value(draws):
    return draws.choice(
        [
            draws.randint(-5, 10**6),
            draws.random() * 10 ** draws.randint(-8, 8),
            draws.random() < 0.5,
            "".join(draws.choices(string.ascii_letters + string.digits + " \\\"'=[]{}é\t", k=draws.randint(0, 12))),
            draws.sample(range(9), draws.randint(0, 4)),
            draws.sample(["a", "b,c", 'd"e'], draws.randint(0, 3)),
        ]
    )


def random_text(draws):
    """Return a project file with comments, blank lines and spaces in places of all sorts."""
    lines = ["# top"] * draws.randint(0, 2) + ["schema = 1"] * draws.randint(0, 1)
    names = draws.sample(list(keys()), draws.randint(0, 25))
    for section in dict.fromkeys(name.split(".")[0] for name in names):
        lines += (
            [""] * draws.randint(0, 2) + [f"# about {section}"] * draws.randint(0, 1) + [f"[{section}]" + draws.choice(["", "  # all"])]
        )
        for name in names:
            if name.startswith(f"{section}."):
                written = draws.choice(["3", "0.5", "true", '"a word"', "'literal'", "[1, 2]", "[\n    1,  # one\n    2,\n]", "1e-3"])
                comment = draws.choice(["", "  # why", "   #why", "\n# a line of its own", "\n"])
                lines.append(draws.choice(["", "  "]) + name.split(".")[1] + draws.choice([" = ", "=", "   = "]) + written + comment)
    return "\n".join(lines) + draws.choice(["", "\n", "\n\n"])


class TestNewProjects:
    @pytest.mark.parametrize("method", method_names())
    @pytest.mark.parametrize("dataset", ["digits", "fashion-mnist", "cifar10"])
    def test_a_fresh_project_is_valid_and_says_what_was_asked(self, project, method, dataset):
        path = project(new_project_text("p", dataset=dataset, method=method, ipc=2))
        chosen = load_project(path).project
        assert (chosen.dataset.name, chosen.condense.method, chosen.condense.ipc) == (dataset, method, 2)

    def test_its_commented_keys_are_the_methods_own_values(self, project):
        text = new_project_text("p", dataset="cifar10", method="g-vbsm", ipc=10)
        by_method = load_project(project(text)).project
        lines = [
            line.removeprefix("# ") if line.startswith("# ") and " = " in line and "root" not in line else line for line in text.split("\n")
        ]
        assert load_project(project("\n".join(lines))).project == by_method

    def test_a_root_is_written_so_that_it_reads_back(self, project):
        text = new_project_text("p", dataset="folder", method="edc", ipc=1, root='/data/"odd" \\ name')
        assert read_values(project(text))[0]["dataset.root"] == '/data/"odd" \\ name'

    def test_a_method_that_does_not_exist_is_refused(self):
        with pytest.raises(UserError, match="condense.method: no method is called 'ecd'; did you mean edc?"):
            new_project_text("p", dataset="digits", method="ecd", ipc=1)

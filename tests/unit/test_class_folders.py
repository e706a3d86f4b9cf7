"""Which class each folder of an image tree means, by name, by number or by both; never by a guess."""

from pathlib import Path

import pytest

from engine.data.class_folders import folder_labels
from engine.errors import UserError

CLASSES = ("airplane", "T-shirt/top", "dog")


def labels(*folders, classes=CLASSES):
    return folder_labels(folders, classes, Path("mine"), "clothes")


def refusal(*folders, classes=CLASSES):
    with pytest.raises(UserError) as caught:
        labels(*folders, classes=classes)
    message = str(caught.value)
    assert message.startswith("mine: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    "folders",
    [
        ("airplane", "T-shirt_top", "dog"),
        ("0", "1", "2"),
        ("00000", "00001", "00002"),
        ("new000", "new001", "new002"),
        ("class_0", "class_1", "class_2"),
        ("0_airplane", "1_T-shirt_top", "2_dog"),
        ("00_airplane", "01_T-shirt_top", "02_dog"),
    ],
)
def test_folders_named_by_class_number_or_both_are_understood_in_any_order(folders):
    expected = dict(zip(folders, (0, 1, 2), strict=True))
    assert labels(*folders)[0] == expected == labels(*reversed(folders))[0]


def test_a_reading_that_is_not_plain_is_told():
    assert labels("airplane", "T-shirt_top", "dog")[1] == ""
    assert "numbers of clothes's classes" in labels("0", "1", "2")[1]


def test_classes_that_are_called_by_numbers_are_meant_by_name():
    names = tuple(str(number) for number in range(1, 11))  # from 1 on
    assert labels(*names, classes=names)[0] == {name: place for place, name in enumerate(names)}


def test_names_that_mean_one_class_by_name_and_another_by_number_are_refused():
    assert "'0' may mean class '0' by its name or '1' by its number" in refusal("0", "1", classes=("1", "0"))


def test_numbers_in_another_order_of_classes_are_refused():
    message = refusal("0_airplane", "1_dog", "2_T-shirt_top")
    assert "'1_dog' has another number than class 'dog' of clothes, which is 2" in message


def test_an_unknown_folder_is_named_with_the_classes():
    message = refusal("airplane", "T-shirt_top", "cat")
    assert "folder 'cat'" in message and "'airplane', 'T-shirt/top', 'dog', or 0 to 2" in message
    assert "'3'" in refusal("0", "1", "2", "3")


def test_a_class_without_a_folder_is_named():
    assert "no images of 'dog'" in refusal("airplane", "T-shirt_top")
    assert "no images of 'airplane'" in refusal("1", "2")


def test_two_folders_of_one_class_are_named():
    assert "'0', '00' mean the same class" in refusal("0", "00", "1", "2")


def test_two_classes_whose_names_look_alike_in_a_folder_are_not_guessed():
    assert "a_b" in refusal("a_b", "c", classes=("a b", "a/b"))
    assert labels("0_a_b", "1_a_b", classes=("a b", "a/b"))[0] == {"0_a_b": 0, "1_a_b": 1}

"""classes.txt and classes.json, also from hostile hands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bifocals.data import DataError
from bifocals.data.class_list import read_class_list


def listed(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_plain_class_lists(tmp_path: Path) -> None:
    plain = read_class_list(listed(tmp_path, "classes.txt", "\ufeffsky\nroad marking\n\n"), "classes.txt")
    assert plain.names == ("sky", "road marking")
    assert plain.values == ((0,), (1,)) and plain.ignored == (255,) and plain.colors is None
    colored = read_class_list(listed(tmp_path, "classes.txt", "sky 1 2 3\nroad marking, 4, 5, 6\n"), "classes.txt")
    assert colored.names == ("sky", "road marking") and colored.colors == ((1, 2, 3), (4, 5, 6))


def test_class_lists_in_json(tmp_path: Path) -> None:
    content = {"classes": [{"name": "sky", "value": 3, "color": [1, 2, 3]},
                           {"name": "road", "values": [7, 8], "color": [4, 5, 6]}],
               "ignore": [0, [9, 9, 9]], "labels": "numbers"}  # fmt: skip
    found = read_class_list(listed(tmp_path, "classes.json", json.dumps(content)), "classes.json")
    assert found.values == ((3,), (7, 8)) and found.ignored == (0,)
    assert found.ignored_colors == ((9, 9, 9),) and found.labels == "numbers"
    assert found.expected() == "3, 7 to 8, or 0 for what does not count"
    short = read_class_list(listed(tmp_path, "classes.json", '["sky", "road"]'), "classes.json")
    assert short.values == ((0,), (1,)) and short.ignored == (255,)
    binary = '[{"name": "none", "value": 0}, {"name": "crack", "value": 255}]'
    found = read_class_list(listed(tmp_path, "classes.json", binary), "classes.json")
    assert found.values == ((0,), (255,)) and found.ignored == ()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("classes.txt", "", "expected 1 to 254 classes, got 0"),
        ("classes.txt", "sky\n\nroad\n", "line 2: expected the name of class 1, got an empty line"),
        ("classes.txt", "sky\nsky\n", "expected each class name once, got 'sky' again"),
        ("classes.txt", "sky 1 2 3\nroad\n", "expected a color for each of 2 classes or none, got 1"),
        ("classes.txt", "sky 1 2 300\n", "expected numbers from 0 to 255, got 300"),
        ("classes.txt", "\n".join(map(str, range(300))), "expected 1 to 254 classes, got 300"),
        ("classes.json", "{", "expected JSON"),
        ("classes.json", "[" * 100_000, "expected JSON"),
        ("classes.json", "3", "expected a list of classes or an object with classes, got a int"),
        ("classes.json", '{"names": []}', "an object with classes, got an object with names"),
        ("classes.json", '{"classes": ["a"], "void": 3}', "expected the keys classes, ignore, labels, got 'void'"),
        ("classes.json", '[{"name": "a", "id": 3}]', "class 0: expected the keys color, name, value, values, got 'id'"),
        ("classes.json", '["a", {"value": 3}]', "class 1: expected a name or an object with name"),
        ("classes.json", '[{"name": "a", "value": "3"}]', "class 0: expected value to be a whole number, got ['3']"),
        ("classes.json", '[{"name": "a", "value": 256}]', "expected numbers from 0 to 255, got 256"),
        ("classes.json", '[{"name": "a", "value": 1}, {"name": "b", "value": 1}]', "expected each number once, got 1"),
        ("classes.json", '[{"name": "a", "color": "red"}]', "class 0: expected a color [red, green, blue], got 'red'"),
        ("classes.json", '{"classes": ["a"], "ignore": "b"}', "ignore: expected a color [red, green, blue], got 'b'"),
        ("classes.json", '{"classes": ["a"], "ignore": 0}', "expected each number once, got 0 again"),
        ("classes.json", '{"classes": ["a"], "labels": "rgb"}', "expected labels to be numbers or colors, got 'rgb'"),
        ("classes.json", '{"classes": ["a"], "labels": "colors"}', "expected a color for each class"),
    ],
)  # fmt: skip
def test_hostile_class_lists(tmp_path: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        read_class_list(listed(tmp_path, name, text), name)
    assert str(caught.value).startswith(f"{name}: ") and expected in str(caught.value), caught.value
    assert "\n" not in str(caught.value)

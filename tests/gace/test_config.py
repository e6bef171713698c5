"""Configuration files: what is written there counts, or is refused in one line."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from gace.config import Closed, parse_config, read_yaml
from gace.errors import InputError


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("seed: 1\ntraining: {}\nseed: 2\n", "seed"),
        ("a:\n  b: 1\n  'b': 2\n", "b"),
        ("a: [{c: 1, c: 1}]", "c"),
    ],
)
def test_a_key_that_stands_there_twice_is_refused(tmp_path, text, key):
    (tmp_path / "twice.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"'{key}' stands there twice.*line") as caught:
        read_yaml(tmp_path / "twice.yaml")
    assert "\n" not in str(caught.value)


def test_merged_keys_may_be_overridden(tmp_path):
    (tmp_path / "merged.yaml").write_text("base: &b {x: 1, y: 2}\nother: {<<: *b, x: 3}\nanother: {x: 4}\n")
    assert read_yaml(tmp_path / "merged.yaml")["other"] == {"x": 3, "y": 2}


class One(Closed):
    kind: Literal["one"]


class Two(Closed):
    kind: Literal["two"]


class File(Closed):
    section: Annotated[One | Two, Field(discriminator="kind")]


def test_a_section_that_does_not_say_its_kind_is_asked_for_it():
    with pytest.raises(InputError, match=r"missing key 'section\.kind'"):
        parse_config({"section": {}}, File)

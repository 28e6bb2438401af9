"""``expect:`` of a step: whatever is written below it gives a value, or problems with what to write instead."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from parts import read
from pydantic import ValidationError

from pipelines.language.document.expect import Expect
from pipelines.language.names import IMAGE_FACTS


def expected(**given: Any) -> Expect:
    expect, problems = read(Expect, given, where="expect")
    assert problems == []
    assert expect is not None
    return expect


def problems_of(data: Any) -> list[str]:
    expect, problems = read(Expect, data, where="steps.0.expect")
    assert expect is None
    return [str(problem).removeprefix("steps.0.expect") for problem in problems]


# -- what is needed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "needs_mask", "needs_before"),
    [
        ({"size": [8, 8], "min_side": 3, "aspect": "1:1", "solid": False}, False, False),
        ({"size": "same"}, False, True),
        ({"drift": 0}, True, True),
        ({"changed": 0.5}, True, True),
        ({"sharpness_gain": 1}, False, True),
        ({"condition": "width > 3"}, False, False),
        ({"condition": "width > before.width"}, False, True),
        ({"condition": "width > 3 and 'before.width' != 'x'"}, False, False),
    ],
)
def test_what_a_step_must_have_is_known_beforehand(given: dict[str, Any], needs_mask: bool, needs_before: bool) -> None:
    expect = expected(**given)
    assert (expect.needs_mask, expect.needs_before) == (needs_mask, needs_before)


# -- reading ----------------------------------------------------------------------------------------------------------

KNOWN = "size, min_side, aspect, drift, changed, shift, sharpness_gain, solid, condition"
FACT_NAMES = f"{', '.join(IMAGE_FACTS)}, and before.width and so on of the input"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, ": has no value: write what the result has to be, such as {size: same, solid: false}"),
        ("same", ": 'same' is not a mapping: write what the result has to be, such as {size: same, solid: false}"),
        ({}, f": is empty: write at least one of {KNOWN}"),
        ({"drfit": 4}, ".drfit: unknown key (did you mean 'drift'?)"),
        ({"colour": 4}, f".colour: unknown key; known: {KNOWN}"),
        ({7: 4}, f".7: unknown key; known: {KNOWN}"),
        ({"drift": None}, ".drift: has no value: write a number from 0 to 255, such as 4.0"),
        ({"drift": -1}, ".drift: -1 is not a number from 0 to 255: write one such as 4.0"),
        ({"drift": float("nan")}, ".drift: nan is not a number from 0 to 255: write one such as 4.0"),
        ({"changed": 2}, ".changed: 2 is not a share from 0 to 1: write one such as 0.02"),
        ({"changed": "2 %"}, ".changed: '2 %' is not a share from 0 to 1: write one such as 0.02"),
        ({"sharpness_gain": 0}, ".sharpness_gain: 0 is not a number above 0: write one such as 1.1"),
        ({"min_side": True}, ".min_side: True is not a whole number of px from 1: write one such as 512"),
        ({"min_side": 0}, ".min_side: 0 is not a whole number of px from 1: write one such as 512"),
        (
            {"size": "1024x768"},
            ".size: '1024x768' is not a size: write same, or [width, height] in px such as [1024, 768]",
        ),
        ({"size": [10]}, ".size: [10] is not a size: write same, or [width, height] in px such as [1024, 768]"),
        ({"size": {3, 4}}, ".size: {3, 4} is not a size: write same, or [width, height] in px such as [1024, 768]"),
        ({"aspect": "wide"}, ".aspect: 'wide' is not a ratio: write width and height in quotes, such as \"16:9\""),
        ({"aspect": "0:9"}, ".aspect: '0:9' is not a ratio: write width and height in quotes, such as \"16:9\""),
        ({"aspect": 969}, '.aspect: 969 is how YAML reads 16:9 without quotes: write "16:9"'),
        ({"aspect": 1.5}, '.aspect: 1.5 is not a ratio: write width and height in quotes, such as "16:9"'),
        ({"solid": True}, ".solid: True cannot be expected: write false, or leave it out"),
        ({"solid": 0}, ".solid: 0 cannot be expected: write false, or leave it out"),
        (
            {"condition": True},
            '.condition: True is not a condition of at most 2,000 characters: write one such as "brightness > 20"',
        ),
        (
            {"condition": ""},
            '.condition: is empty: write a condition of at most 2,000 characters, such as "brightness > 20"',
        ),
        (
            {"condition": "1+" * 2000 + "1"},
            f".condition: '{'1+' * 19}1…{'+1' * 19}' is not a condition of at most 2,000 characters: "
            'write one such as "brightness > 20"',
        ),
        ({"condition": "width >"}, ".condition: 'width >' is not understood: something is missing at its end"),
        ({"condition": "widht > 3"}, ".condition: 'widht > 3': nothing is called 'widht' (did you mean 'width'?)"),
        ({"condition": "mask > 3"}, f".condition: 'mask > 3': nothing is called 'mask'; known: {FACT_NAMES}"),
        (
            {"condition": "before.brightnes > 3"},
            ".condition: 'before.brightnes > 3': 'before.brightnes' is no fact of a picture "
            "(did you mean 'brightness'?)",
        ),
        (
            {"condition": "width > before"},
            ".condition: 'width > before': 'before' alone is no value: write before.width or another fact of the input",
        ),
        (
            {"condition": "width > '800'"},
            ".condition: 'width > '800'' cannot be evaluated: '>' not supported between instances of 'int' and 'str'",
        ),
        ({"condition": "width(3)"}, ".condition: 'width(3)' cannot be evaluated: 'int' object is not callable"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_write_instead(data: Any, message: str) -> None:
    assert problems_of(data) == [message]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    told = problems_of({"drift": -1, "sice": "same", "condition": "foo > 1 and before.bar > 2 and before"})
    assert [sentence.split(":")[0] for sentence in told] == [".sice", ".drift", *[".condition"] * 3]


@pytest.mark.parametrize("text", ["9" * 1_990, "(" * 900 + "1" + ")" * 900, "not " * 490 + "1", "\ud800", "a" * 1_999])
def test_a_monstrous_condition_is_told_or_taken(text: str) -> None:
    expect, problems = read(Expect, {"condition": text}, where="expect")
    assert (expect is None) == bool(problems)


def test_a_condition_with_a_divisor_that_may_be_zero_is_taken() -> None:
    assert expected(condition="1 / (before.width - width) < 3").needs_before


def test_a_value_can_be_written_down_and_read_again() -> None:
    expect = expected(size=[64, 48], min_side=3, aspect="4:3", drift=4, changed=0.02, solid=False, condition="width")
    written = json.loads(json.dumps(expect.model_dump(exclude_none=True)))
    assert expected(**written) == expect
    assert hash(expected(**written)) == hash(expect)
    assert pickle.loads(pickle.dumps(expect)) == expect


def test_a_value_made_in_python_is_checked_and_cannot_be_changed() -> None:
    for wrong in ({}, {"drift": -1}, {"solid": True}, {"aspect": "wide"}, {"condition": "foo"}, {"colour": 1}):
        with pytest.raises(ValidationError):
            Expect(**wrong)
    with pytest.raises(ValidationError):
        Expect(drift=4).drift = 5  # type: ignore[misc]


def test_every_field_describes_itself_in_the_schema() -> None:
    schema = Expect.model_json_schema()
    assert schema["additionalProperties"] is False
    assert f"{', '.join(schema['properties'])}" == KNOWN
    assert all(len(field["description"]) > 20 for field in schema["properties"].values())

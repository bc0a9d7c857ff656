"""R_format (Eq. 4), and what is parsed from completions that violate it."""

import pytest
from alignxplore.formats import Parsed, normalise_thinking, parse_completion, render_completion

GOOD = render_completion("1. joke: humorous.", "humorous.")


def test_the_canonical_form_round_trips():
    assert parse_completion(GOOD, "stop") == Parsed("1. joke: humorous.", "humorous.", True)


@pytest.mark.parametrize(
    ("text", "finish", "preference"),
    [
        (GOOD, "length", "humorous."),
        (GOOD + " More.", "stop", "humorous."),
        (GOOD + GOOD, "stop", "humorous."),
        ("<think>r</think> humorous.", "stop", "humorous."),
        ("<think>r</think><answer>humorous.", "stop", "humorous."),
        ("<think></think><answer>humorous.</answer>", "stop", "humorous."),
        ("<think>r</think><answer> </answer>", "stop", ""),
        ("r</think><answer>humorous.</answer>", "stop", "humorous."),
        ("<answer>humorous.</answer><think>r</think>", "stop", None),
        ("humorous.", "stop", "humorous."),
        ("", "stop", ""),
    ],
)
def test_a_completion_out_of_format_can_still_be_parsed(text, finish, preference):
    parsed = parse_completion(text, finish)
    assert not parsed.format_ok
    assert preference is None or parsed.preference == preference


def test_models_that_are_not_asked_to_reason():
    assert parse_completion(" humorous. ", "stop", False) == Parsed("", "humorous.", True)
    assert parse_completion("<answer>humorous.</answer>", "stop", False).preference == "humorous."
    assert not parse_completion("humorous", "length", False).format_ok
    assert not parse_completion("  ", "stop", False).format_ok
    # If they reason anyway, the reasoning is split off.
    assert parse_completion("<think>r</think> humorous.", "stop", False) == Parsed("r", "humorous.", True)


TAIL = GOOD.removeprefix("<think>")


@pytest.mark.parametrize(
    ("text", "reasoning", "opened", "expected"),
    [
        (GOOD, None, None, GOOD),  # the model writes both tags
        (GOOD, None, False, GOOD),
        (TAIL, None, True, GOOD),  # the template is known to open the reasoning
        (TAIL, None, None, GOOD),  # the template is unknown; the closing tag implies it
        (TAIL, None, False, TAIL),  # the model should have opened it, and did not
        (GOOD, None, True, GOOD),  # the template opens it, and so does the model
        ("cut off", None, True, "<think>cut off"),
        ("<answer>d</answer>", "r", None, "<think>r</think><answer>d</answer>"),  # reasoning in a separate field
        ("<answer>d</answer>", "", None, "<answer>d</answer>"),  # no reasoning
        ("", "cut off", None, "<think>cut off</think>"),
    ],
)
def test_reasoning_is_normalised_to_tags(text, reasoning, opened, expected):
    assert normalise_thinking(text, reasoning, opened) == expected

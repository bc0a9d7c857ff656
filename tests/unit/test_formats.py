"""R_format (Eq. 4), and what is parsed from completions that violate it."""

import re
from pathlib import Path

import pytest
import yaml
from alignxplore.errors import UserError
from alignxplore.formats import (
    THINK,
    THOUGHTS,
    Parsed,
    Thoughts,
    find_thoughts,
    named_thoughts,
    normalise_thinking,
    opens_thought,
    parse_completion,
    render_completion,
)

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


@pytest.mark.parametrize(
    ("text", "reasons", "expected"),
    [
        ("<think>r</think>\nLikes tea.", True, Parsed("r", "Likes tea.", True)),
        ("<think>r</think>Likes <answer>tea</answer>.", True, Parsed("r", "Likes tea.", True)),
        ("<think>r</think>\n", True, Parsed("r", "", False)),
        ("<think> </think>Likes tea.", True, Parsed("", "Likes tea.", False)),
        ("<think>Likes tea.", True, Parsed("Likes tea.", "", False)),
        ("<think>r <answer>Likes tea.</answer>", True, Parsed("r Likes tea.", "", False)),
        ("<think>r</think>Likes <think>s</think>tea.", True, Parsed("r", "Likes stea.", False)),
        ("Step 1. Likes tea.", True, Parsed("", "Step 1. Likes tea.", False)),
        ("Step 1. <answer>tea</answer>", False, Parsed("", "Step 1. tea", True)),
        ("<think>r</think>Likes tea.", False, Parsed("r", "Likes tea.", True)),
    ],
)
def test_an_answer_without_tags_is_all_that_follows_the_thought(text, reasons, expected):
    assert parse_completion(text, "stop", reasons, "text") == expected
    assert not parse_completion(text, "length", reasons, "text").format_ok


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


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ("<think>They like", "length", Parsed("They like", "", False)),
        ("<think>They like", "stop", Parsed("They like", "", False)),
        (
            "<think>The form is <answer>d</answer>. They",
            "length",
            Parsed("The form is d. They", "", False),
        ),
        ("Likes tea. <think>Or", "length", Parsed("Or", "Likes tea.", False)),
        ("<think>r</think><answer>Likes", "length", Parsed("r", "Likes", False)),
    ],
)
@pytest.mark.parametrize("reasons", [True, False])
def test_a_thought_that_is_cut_off_is_no_description(text, finish, expected, reasons):
    assert parse_completion(text, finish, reasons) == expected


def test_an_answer_in_a_thought_that_was_not_closed_can_be_judged():
    assert parse_completion("<think>r <answer>d</answer>", "stop") == Parsed("", "d", False)
    assert parse_completion("<think>r <answer>d</answer> and", "stop").preference == ""


HARMONY = "<|start|>assistant<|channel|>"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("gpt_oss", f"<|channel|>analysis<|message|>r<|end|>{HARMONY}final<|message|>d", "<think>r\n</think>d"),
        ("gpt_oss", "<|channel|>final<|message|>d", "d"),
        ("gpt_oss", "<|channel|>analysis<|message|>cut", "<think>cut"),
        ("gpt_oss", f"<|channel|>analysis<|message|>r<|end|>{HARMONY}comm", "<think>r\n<|channel|>comm"),
        ("gpt_oss", "<|channel|>commentary<|message|>hm<|end|>", "<think>\nhm\n"),
        (
            "gpt_oss",
            f"<|channel|>analysis<|message|>r<|end|>{HARMONY}analysis<|message|>s<|end|>{HARMONY}final<|message|>d",
            "<think>r\ns\n</think>d",
        ),
        ("mistral", "[THINK]r[/THINK]d", "<think>r</think>d"),
        ("mistral", "[THINK]cut", "<think>cut"),
        ("gemma", "<|channel>thought\nr<channel|>d", "<think>\nr</think>d"),
        ("gemma", "<|channel>r<channel|>d", "<think>\nr</think>d"),
        ("gemma", "d", "d"),
        ("cohere", "<|START_THINKING|>r<|END_THINKING|><|START_RESPONSE|>d<|END_RESPONSE|>", "<think>r</think>d"),
        ("cohere", "<|START_THINKING|>r<|END_THINKING|><|START_TEXT|>d<|END_TEXT|>", "<think>r</think>d"),
        ("cohere", "<|START_RESPONSE|>d<|END_RESPONSE|>", "d"),
        ("cohere", "<|START_THINKING|>r<|END_THINKING|>d", "<think>r</think>d"),
        ("seed", "<seed:think>r</seed:think>d", "<think>r</think>d"),
        ("kimi", "◁think▷r◁/think▷d", "<think>r</think>d"),
        ("ernie", "r\n</think>\n\n<response>\nd\n</response>\n", "<think>r\n</think>\nd\n"),
        ("minimax", "</mm:think>d", "d"),
        ("apertus", "<|inner_prefix|>r<|inner_suffix|>d", "<think>r</think>d"),
        ("exaone", "<thought>r</thought>d", "<think>r</think>d"),
        ("granite", "Here is my thought process:r Here is my response:d", "<think>r </think>d"),
        ("think", "<think>r</think>d", "<think>r</think>d"),
        ("none", "<think>r</think>d", "<think>r</think>d"),
    ],
)
def test_marks_are_rewritten_to_think_tags(name, text, expected):
    assert normalise_thinking(text, thoughts=named_thoughts(name)) == expected


@pytest.mark.parametrize("marks", THOUGHTS.values())
def test_every_kind_of_marks_is_rewritten_alike(marks):
    whole = f"{marks.open}r{marks.close}d"
    assert normalise_thinking(whole, thoughts=marks) == "<think>r</think>d"
    tail = whole.removeprefix(marks.open)
    assert normalise_thinking(tail, opened=True, thoughts=marks) == "<think>r</think>d"
    assert normalise_thinking(tail, thoughts=marks) == "<think>r</think>d"
    assert normalise_thinking("cut off", opened=True, thoughts=marks) == "<think>cut off"
    assert normalise_thinking("d", "r", thoughts=marks) == "<think>r</think>d"
    assert normalise_thinking("d", opened=False, thoughts=marks) == "d"
    assert parse_completion(normalise_thinking(f"{marks.open}cut off", thoughts=marks), "length").preference == ""
    assert opens_thought(f"<user>hi<assistant>{marks.open}\n", marks)
    assert not opens_thought(f"<user>hi<assistant>{marks.open}\n{marks.close}", marks)


class Tokenizer:
    """What find_thoughts looks at."""

    name_or_path = "m"

    def __init__(self, template, *added):
        self.chat_template, self.added = template, added

    def get_added_vocab(self):
        return {token: number for number, token in enumerate(self.added)}


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (Tokenizer(None), "think"),
        (Tokenizer("{{ messages }}", "<|im_end|>", "</answer>"), "think"),
        (Tokenizer("{{ '<think>\\n' if enable_thinking }}</think>", "<think>", "</think>", "/no_think"), "think"),
        (Tokenizer("<|start|>assistant", "<|start|>", "<|channel|>", "<|message|>", "<|return|>"), "gpt_oss"),
        (Tokenizer("[INST]", "[THINK]", "[/THINK]", "[INST]"), "mistral"),
        (Tokenizer("<|think|>", "<|channel>", "<channel|>", "<|think|>"), "gemma"),
        (Tokenizer({"default": "x", "tool_use": "y"}, "<|START_THINKING|>", "<|END_THINKING|>"), "cohere"),
        (Tokenizer("{{ '◁think▷' }}◁/think▷"), "kimi"),
        (Tokenizer("", "<think>", "</think>", "<response>", "</response>"), "ernie"),
        (Tokenizer("Here is my thought process: Here is my response:"), "granite"),
    ],
)
def test_marks_are_found_in_the_tokenizer(tokenizer, name):
    assert find_thoughts(tokenizer) == THOUGHTS[name]


@pytest.mark.parametrize(
    ("tokenizer", "token"),
    [
        (Tokenizer("", "<longcat_think>", "</longcat_think>"), "</longcat_think>"),
        (Tokenizer("", "<think>", "</think>", "<|begin_of_thought|>"), "<|begin_of_thought|>"),
        (Tokenizer("{{ '<thinking>' }}"), "<thinking>"),
        (Tokenizer("", "[BEGIN_THINK]"), "[BEGIN_THINK]"),
    ],
)
def test_an_unknown_mark_is_refused_unless_the_configuration_names_the_marks(tokenizer, token):
    with pytest.raises(
        UserError, match=f"m: {re.escape(repr(token))} looks like a mark.*`thoughts` of the model's entry"
    ):
        find_thoughts(tokenizer)
    assert find_thoughts(tokenizer, {"open": "a", "close": "b"}) == Thoughts("a", "b")
    assert find_thoughts(tokenizer, "think") == THINK
    assert find_thoughts(tokenizer, "none") is None


def test_several_kinds_of_marks_are_refused():
    with pytest.raises(UserError, match="may be seed or think"):
        find_thoughts(Tokenizer("", "<think>", "</think>", "<seed:think>", "</seed:think>"))


def test_the_schema_and_the_docs_name_every_kind_of_marks():
    schema = yaml.safe_load(Path("config/schema.yaml").read_text())
    allowed = schema["properties"]["models"]["additionalProperties"]["properties"]["thoughts"]["oneOf"][0]["enum"]
    assert sorted(allowed) == sorted(["none", *THOUGHTS])
    docs = Path("docs/engines.md").read_text()
    for name, marks in THOUGHTS.items():
        assert f"| `{name}` | " in docs
        if name != "gpt_oss":
            assert marks.open.replace("|", "\\|") in docs and marks.close.replace("|", "\\|") in docs

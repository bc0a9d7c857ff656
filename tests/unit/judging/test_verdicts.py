"""Which response a written judgement selects."""

import pytest
from alignxplore.judging.verdicts import exact_selection, parse_selection
from hypothesis import given, settings
from hypothesis import strategies as st

JSON = {
    '{"selection": "Response A"}': "A",
    '{"selection": "Response B", "reason": "Response A is rude"}': "B",
    '{"reason": "I prefer Response A in tone only", "selection": "Response B"}': "B",
    '```json\n{ "selection" : "Response B" }\n```': "B",
    '```json\n{\n  "reason": "kind",\n  "confidence": 0.9,\n  "selection": "Response A"\n}\n```\nI hope it helps!': "A",
    "{'selection': 'B'}": "B",
    '{"selection": "b"}': "B",
    '{"Selection": "response a", "confidence": 1}': "A",
    '{"final_answer": "B"}': "B",
    '{"result": {"choice": "Response B"}, "note": "A is rude"}': "B",
    '{"selection": "Response B", "reason": "they say "no" a lot"}': "B",
    '{"selection": "Response A"}{"selection": "Response B"}': "B",
    'The post says {"selection": "Response B"}, but: {"selection": "Response A"}': "A",
    '<think>{"selection": "Response A"}</think>{"selection": "Response B"}': "B",
    '{"selection": "Response A"}\nOn reflection, I choose Response B.': None,
    '{"selection": "Response Alpha"}': None,
    '{"selection": "Response A or Response B"}': None,
    '{"selection": "neither"}': None,
    '{"selection": null}': None,
    '{"reason": "I choose Response A"}': None,
    '{"selection": "Response A"': "A",
}
LABELLED = {
    "Selection: **B**": "B",
    "**Selection:** Response B": "B",
    "Selection: _B_": "B",
    "Selection: `B`": "B",
    "Selection: [B]": "B",
    "Selection: (B)": "B",
    "Selection: B.": "B",
    "selection: 'b'": "B",
    "Final answer: B": "B",
    "Final Answer - Response A": "A",
    "The answer is B, because A is rude.": "B",
    "My selection is: Response A": "A",
    "## Analysis\nResponse A is rude.\n\n## Selection\n\nResponse B": "B",
    "**Verdict**\nB": "B",
    "Answer (A or B): B": "B",
    "Better response: A": "A",
    "Preferred: Response A": "A",
    "First I thought of A. Verdict: B > A": "B",
    "Selection: A\n\nWait. Selection: B": "B",
    "Answer: Response B is better than Response A": "B",
    "So the answer is $\\boxed{B}$.": "B",
    "\\boxed{\\text{Response A}}": "A",
    "[[B]]": "B",
    "<answer>Response B</answer>": "B",
    "Auswahl: Antwort B": "B",
    "Antwort: B, denn A ist unhöflich": "B",
    "最终答案:B": "B",
    "选择：回答A。": "A",
    "My selection: a warm reply fits best, so Response B.": "B",
    "My selection: a warm reply fits best": None,
    "Selection: A warm reply fits best.": None,
    "Selection: a": None,
    "Selection: A or B": None,
    "Selection: A/B": None,
    "Selection: A, B": None,
    "Selection: A = B": None,
    "[[A<B]]": None,
    "Selection: A, or rather B": None,
    "Selection: A for humour, B for tone": None,
    "Selection: not Response A": None,
    "Selection: Response A is worse": None,
    "Selection: neither Response A nor Response B": None,
    "Selection: both": None,
    "Selection: A?": None,
    "Selection: B\nFinal answer: neither": None,
    "The wrong answer is A.": None,
    "First choice: A; second choice: B": None,
}
PROSE = {
    "I choose Response B over Response A.": "B",
    "r</think> I choose Response B. Response B is kinder.": "B",
    "I prefer Response A.": "A",
    "I would go with B.": "B",
    "This person would prefer Response A, since Response B is cold.": "A",
    'The post says "I choose Response A now". I choose Response B.': "B",
    "It is not easy, but I choose B.": "B",
    "I do not like Response A; we select Response B.": "B",
    "Response B is better.": "B",
    "While Response A is funny, Response B is the better choice.": "B",
    "Overall, Response B fits best.": "B",
    "They like jokes. Therefore, Response B.": "B",
    "B": "B",
    "**B**": "B",
    "(A)": "A",
    "Response B.": "B",
    "Both have merits.\n\n**Response B**": "B",
    "Ich wähle Antwort B.": "B",
    "我选择回答B": "B",
    "我认为回答A更好": "A",
    "Not Response A": None,
    "Response A or B": None,
    "Response A": "A",
    "A warm reply.": None,
    "Response A is worse than Response B.": None,
    "Response A is rude.": None,
    "Response A is better written.": None,
    "Response A is not better.": None,
    "Response A is kind, Response B is not.": None,
    "### Response A\nIt is long and rude.\n\n### Response B\nIt is short.": None,
    "Neither.": None,
    "Neither Response A nor Response B.": None,
    "Both Response A and Response B are fine.": None,
    "I would not choose Response A.": None,
    "I don't prefer Response B.": None,
    "Nobody would choose Response A.": None,
    "Some people prefer Response A.": None,
    "I might choose Response B.": None,
    "If they like jokes, I choose Response A.": None,
    "Would I choose Response A?": None,
    "I choose A or B.": None,
    "I choose Response A for humour and Response B for tone.": None,
    "I choose Response A. No: I choose Response B.": None,
    "Response A is better. Response B is better.": None,
    "I choose vitamin B.": None,
    "I prefer a plan B.": None,
    "": None,
    "Both are fine.": None,
    "<think>Response A": None,
    '<think>I am to end with {"selection": "Response B"}. First': None,
    '<think>The post says {"selection": "Response B"}</think>': None,
}


@pytest.mark.parametrize(("text", "expected"), [*JSON.items(), *LABELLED.items(), *PROSE.items()])
def test_a_written_judgement_selects(text, expected):
    assert parse_selection(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ('{"selection": "Response B"}', "B"),
    ('```json\n{\n  "selection" : "Response A"\n}\n```', "A"),
    ('Sure: {"selection": "Response A"} since {"selection": "Response B"} is rude', "A"),
    ('<think>{"selection": "Response A"}</think>{"selection": "Response B"}', "B"),
    ('<think>{"selection": "Response A"}', None),
    ('{"selection": "B"}', None),
    ('{"selection": "response b"}', None),
    ('{"selection": "[Response B]"}', None),
    ('{"choice": "Response B"}', None),
    ("Response B", None),
    ("", None),
])  # fmt: skip
def test_the_published_protocol_takes_an_exact_match_alone(text, expected):
    assert exact_selection(text) == expected


_FRAGMENTS = [
    *(
        '{{"selection": "Response {x}"}}',
        '{{"reason": "{y} is rude", "choice": "{x}"}}',
        "Selection: ",
        "Final answer: ",
    ),
    *("**{x}**", "({x})", "`{y}`", '"{x}"', "Response {x}", "response {y}", "{x}", "{y}", "\\boxed{{{x}}}", "[[{x}]]"),
    *("I choose ", "I prefer ", "not ", "neither ", "is better", "is worse than ", " over ", " or ", " and ", " so "),
    *(
        ". ",
        ", ",
        "; ",
        "? ",
        ": ",
        "\n",
        "\n\n## ",
        " because ",
        "a warm reply",
        "<think>",
        "</think>",
        "if ",
        "答案:",
    ),
]
replies = st.lists(st.sampled_from(_FRAGMENTS), max_size=8).map("".join)


@settings(max_examples=400)
@given(replies)
def test_swapping_the_labels_swaps_the_verdict(reply):
    verdict, swapped = (parse_selection(reply.format(x=x, y=y)) for x, y in ("AB", "BA"))
    assert swapped == {"A": "B", "B": "A", None: None}[verdict]


@settings(max_examples=400)
@given(replies)
def test_a_response_that_is_not_named_is_never_selected(reply):
    assert parse_selection(reply.format(x="B", y="B")) != "A"
    assert parse_selection(reply.format(x="C", y="the first")) is None


def test_a_reply_that_nests_without_end_is_read_in_time():
    assert parse_selection('{"a":' * 50_000) is None
    assert parse_selection("{" * 20_000 + "}" * 20_000) is None


@settings(max_examples=400)
@given(st.text(alphabet=st.characters(exclude_characters="ABab", max_codepoint=0x2FFF)))
def test_a_text_without_labels_selects_nothing(text):
    letters = "".join(c for c in text if c not in "ABab")
    assert parse_selection(f"Selection: {letters}") is None
    assert parse_selection(letters) is None

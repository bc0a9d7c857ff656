"""What models that describe preferences learn to say."""

import re

import pytest
from alignxplore.demo.world import Direction
from alignxplore.formats import parse_completion
from alignxplore.prompts import strip_markers


def said(tasks, text: str) -> Direction:
    labels = {tasks.world.lexicon.label(axis, sign): (axis, sign) for axis in tasks.axes for sign in (1, -1)}
    found = [labels[word] for word in text.removeprefix("This person: ").rstrip(".").split(", ") if word in labels]
    assert len(found) == len(dict(found)), f"both poles, or one twice: {text}"
    return dict(found)


def test_an_update_says_what_most_of_the_new_evidence_shows_and_keeps_the_rest(tasks):
    corrected = kept = 0
    for _ in range(60):
        sample = tasks.update(signals=4, most=4)
        parsed = parse_completion(sample.completion, "stop")
        assert parsed.format_ok
        past = said(tasks, re.search(r"Known so far: (.*)", strip_markers(sample.prompt.user))[1])
        net = dict.fromkeys(tasks.axes, 0)
        lines = parsed.reasoning.splitlines()
        assert lines[0].startswith("0. ") == bool(past)
        for line in lines[1:] if past else lines:
            for reading in re.findall(r": ([^,.]+)", line.partition(". ")[2]):
                ((axis, sign),) = said(tasks, reading).items()
                net[axis] += sign
        expected = {axis: (net[axis] > 0) - (net[axis] < 0) or past.get(axis, 0) for axis in tasks.axes}
        found = said(tasks, parsed.preference)
        assert found == {axis: sign for axis, sign in expected.items() if sign}
        corrected += any(found.get(axis, sign) != sign for axis, sign in past.items())
        kept += any(axis in found and not net[axis] for axis in past)
    assert corrected > 5 and kept > 20


@pytest.mark.parametrize("wavering", [0.0, 1.0])
def test_a_description_names_what_most_of_the_reasoning_shows_in_the_order_of_the_axes(tasks, wavering):
    contested = 0
    for _ in range(40):
        parsed = parse_completion(tasks.infer(1.0, wavering=wavering).completion, "stop")
        net = dict.fromkeys(tasks.axes, 0)
        for reading in re.findall(r"(?:: |perhaps )([^,.?]+)", re.sub(r"(?m)^\d+\. ", "", parsed.reasoning)):
            for axis, sign in said(tasks, reading).items():
                net[axis] += sign
        expected = {axis: (total > 0) - (total < 0) for axis, total in net.items() if total}
        assert list(said(tasks, parsed.preference).items()) == list(expected.items())
        contested += any(abs(total) > 1 for total in net.values())
    assert contested > 5


@pytest.mark.parametrize("signals", [4, 16])
def test_only_short_histories_are_updates(tasks, signals):
    prompt = tasks.update(signals=signals, most=4).prompt.user
    assert ("Known so far" in prompt) == (signals == 4)
    assert prompt.count("Rejected: ") == signals

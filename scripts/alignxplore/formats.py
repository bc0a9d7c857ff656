"""The format of a completion: reasoning in think tags, then the description in answer tags (Eq. 4)."""

import re
from dataclasses import dataclass

ANSWER_END = "</answer>"
TAGS = ("<think>", "</think>", "<answer>", ANSWER_END)
_TAG = re.compile(r"</?(?:think|answer)>")
_WELL_FORMED = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Parsed:
    """Reasoning r and description d of a completion; `format_ok` is R_format."""

    reasoning: str
    preference: str
    format_ok: bool


def render_completion(reasoning: str, preference: str) -> str:
    """The canonical completion for a reasoning chain r and a description d."""
    return f"<think>\n{reasoning}\n</think>\n<answer>\n{preference}\n</answer>"


def normalise_thinking(text: str, reasoning: str | None = None, opened: bool | None = None) -> str:
    """A completion with its reasoning in think tags, however the model marks it.

    `reasoning` is what an endpoint returned in a separate field. `opened` says whether the chat template wrote the
    opening tag; if that is unknown (None), a closing tag without an opening one implies that it did.
    """
    if reasoning:
        return f"<think>{reasoning}</think>{text}"
    before, closed, _ = text.partition("</think>")
    if "<think>" not in before and (opened or (opened is None and closed)):
        return f"<think>{text}"
    return text


def parse_completion(text: str, finish_reason: str, reasons: bool = True) -> Parsed:
    """Split a completion, in the form that engines return, into r and d.

    R_format holds if one closed think block is followed by one closed answer block, neither is empty, and generation
    was not cut off. Otherwise d is the most plausible part of the text, so that evaluation can still judge it.

    A model that was not asked to reason (`reasons` is false) is in format if it wrote any description; if it reasons
    anyway, the reasoning is split off.
    """
    finished = finish_reason == "stop"
    match = _WELL_FORMED.fullmatch(text)
    if match and len(_TAG.findall(text)) == 4:
        reasoning, preference = (part.strip() for part in match.groups())
        return Parsed(reasoning, preference, finished and bool(reasoning) and bool(preference))
    head, closed, tail = text.partition("</think>")
    reasoning, rest = (head, tail) if closed else ("", text)
    _, opened, inside = rest.partition("<answer>")
    preference = inside.partition(ANSWER_END)[0] if opened else rest
    reasoning, preference = (_TAG.sub("", part).strip() for part in (reasoning, preference))
    return Parsed(reasoning, preference, not reasons and finished and bool(preference))

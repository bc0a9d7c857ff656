"""The format of a completion: reasoning between think tags, then the description between answer tags (Eq. 4)."""

import re
from dataclasses import dataclass

ANSWER_END = "</answer>"
_TAG = re.compile(r"</?(?:think|answer)>")
_WELL_FORMED = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Parsed:
    """What a completion says; `format_ok` is R_format."""

    reasoning: str
    preference: str
    format_ok: bool


def render_completion(reasoning: str, preference: str) -> str:
    """The canonical completion for a reasoning chain r and a description d."""
    return f"<think>\n{reasoning}\n</think>\n<answer>\n{preference}\n</answer>"


def normalise_thinking(text: str, reasoning: str | None = None, opened: bool | None = None) -> str:
    """A completion with its reasoning between think tags, however its model marks it.

    `reasoning` is what an endpoint gave in a field of its own; `opened` says whether the chat template wrote the
    opening tag. Where the template is not known, a closing tag that nothing opened tells.
    """
    if reasoning:
        return f"<think>{reasoning}</think>{text}"
    before, closed, _ = text.partition("</think>")
    if "<think>" not in before and (opened or (opened is None and closed)):
        return f"<think>{text}"
    return text


def parse_completion(text: str, finish_reason: str, reasons: bool = True) -> Parsed:
    """Split a completion, as engines return it, into r and d.

    R_format holds if there is exactly one closed think block followed by one closed answer block, neither empty, and
    generation finished by itself. Otherwise the description is what a reader would take for it, so that
    evaluation can still judge it. Of a model that was not asked to reason, a description alone is in format, and
    reasoning that it writes all the same is set apart.
    """
    finished = finish_reason == "stop"
    match = _WELL_FORMED.fullmatch(text)
    if match and len(_TAG.findall(text)) == 4:
        reasoning, preference = (part.strip() for part in match.groups())
        return Parsed(reasoning, preference, finished and bool(reasoning) and bool(preference))
    head, closed, tail = text.partition("</think>")
    reasoning = _TAG.sub("", head).strip() if closed else ""
    preference = _TAG.sub("", _inside(tail if closed else text, "answer")).strip()
    return Parsed(reasoning, preference, not reasons and finished and bool(preference))


def _inside(text: str, tag: str) -> str:
    """What stands between the first `tag` and its end, or `text` where there is no such tag."""
    _, opened, rest = text.partition(f"<{tag}>")
    return rest.partition(f"</{tag}>")[0] if opened else text

"""The format of a completion: reasoning in think tags, then the description in answer tags (Eq. 4)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignxplore.errors import UserError

ANSWER_END = "</answer>"
TAGS = ("<think>", "</think>", "<answer>", ANSWER_END)
_TAG = re.compile(r"</?(?:think|answer)>")
_WELL_FORMED = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


@dataclass(frozen=True)
class Thoughts:
    """How a model marks its reasoning, as its completions show it with special tokens visible.

    `answers` are pairs of marks that may enclose the final answer. `structure` is what may stand inside the reasoning
    without being part of it. `signs` are what a tokenizer with these marks knows; by default `open` and `close`.
    """

    open: str
    close: str
    answers: tuple[tuple[str, str], ...] = ()
    structure: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()


THINK = Thoughts("<think>", "</think>")
THOUGHTS: dict[str, Thoughts] = {
    "think": THINK,
    "apertus": Thoughts("<|inner_prefix|>", "<|inner_suffix|>"),
    "cohere": Thoughts(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        answers=(("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>")),
    ),
    "ernie": Thoughts(
        "<think>",
        "</think>",
        answers=(("<response>", "</response>"),),
        signs=("<think>", "</think>", "<response>", "</response>"),
    ),
    "exaone": Thoughts("<thought>", "</thought>"),
    "gemma": Thoughts("<|channel>thought", "<channel|>", structure=("<|channel>",), signs=("<|channel>", "<channel|>")),
    # Reasoning may take several messages, and tools have a channel of their own: it ends where the final one begins.
    "gpt_oss": Thoughts(
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        structure=(
            "<|end|>",
            "<|start|>assistant",
            "<|channel|>analysis<|message|>",
            "<|channel|>commentary<|message|>",
        ),
        signs=("<|channel|>", "<|message|>"),
    ),
    "granite": Thoughts("Here is my thought process:", "Here is my response:"),
    "kimi": Thoughts("◁think▷", "◁/think▷"),
    "minimax": Thoughts("<mm:think>", "</mm:think>"),
    "mistral": Thoughts("[THINK]", "[/THINK]"),
    "seed": Thoughts("<seed:think>", "</seed:think>"),
}
"""The marks of known models, by the names that the configuration uses; most are those of vLLM's reasoning parsers."""

_LOOKS_LIKE_THOUGHT = re.compile(
    r"<[^<>\s{}%'\"]*(?:think|thought)[^<>\s{}%'\"]*>|(?-i:\[/?[A-Z_]*(?:THINK|THOUGHT)[A-Z_]*\])|◁[^◁▷\s]*think[^◁▷\s]*▷",
    re.IGNORECASE,
)
_SWITCH = re.compile(r"<\|?/?(?:no_?|enable_?|disable_?)?(?:think|thinking)\|>|<no_?think>", re.IGNORECASE)
"""Tokens by which a prompt turns reasoning on or off; completions do not contain them."""


@dataclass(frozen=True)
class Parsed:
    """Reasoning r and description d of a completion; `format_ok` is R_format."""

    reasoning: str
    preference: str
    format_ok: bool


def render_completion(reasoning: str, preference: str) -> str:
    """The canonical completion for a reasoning chain r and a description d."""
    return f"<think>\n{reasoning}\n</think>\n<answer>\n{preference}\n</answer>"


def named_thoughts(setting: str | Mapping[str, str] | None) -> Thoughts | None:
    """The marks that the key `thoughts` of a model's entry names; think tags by default, None for "none"."""
    if isinstance(setting, Mapping):
        return Thoughts(setting["open"], setting["close"])
    return None if setting == "none" else THOUGHTS[setting or "think"]


def find_thoughts(tokenizer: Any, setting: str | Mapping[str, str] | None = None) -> Thoughts | None:
    """The marks of a model with this tokenizer: those that `setting` names, or else what the tokenizer knows.

    A tokenizer that knows no marks belongs to a model that writes think tags as text, if any. Raises UserError for a
    tokenizer that knows unknown marks or several kinds of them.
    """
    if setting is not None:
        return named_thoughts(setting)
    template = tokenizer.chat_template or ""
    template = template if isinstance(template, str) else "\n".join(template.values())
    vocabulary = set(tokenizer.get_added_vocab())
    advice = f"name its marks in `thoughts` of the model's entry: one of {', '.join(THOUGHTS)}, none, or open and close"
    signs = {name: set(marks.signs or (marks.open, marks.close)) for name, marks in THOUGHTS.items()}
    seen = {*vocabulary, *_LOOKS_LIKE_THOUGHT.findall(template)}
    known = set().union(*signs.values())
    for token in sorted(seen - known):
        if _LOOKS_LIKE_THOUGHT.fullmatch(token) and not _SWITCH.fullmatch(token):
            raise UserError(
                f"{tokenizer.name_or_path}: {token!r} looks like a mark of reasoning, but is unknown; {advice}"
            )
    found = {name for name, own in signs.items() if all(sign in vocabulary or sign in template for sign in own)}
    # Ernie's marks include think tags.
    found = {name for name in found if not any(signs[name] < signs[other] for other in found)}
    if len(found) > 1:
        raise UserError(
            f"{tokenizer.name_or_path}: its marks of reasoning may be {' or '.join(sorted(found))}; {advice}"
        )
    return THOUGHTS[found.pop()] if found else THINK


def opens_thought(rendered: str, thoughts: Thoughts | None) -> bool:
    """Whether a prompt, as the chat template renders it, ends inside the assistant's reasoning."""
    return thoughts is not None and rendered.rstrip().endswith(thoughts.open)


def normalise_thinking(
    text: str, reasoning: str | None = None, opened: bool | None = None, thoughts: Thoughts | None = THINK
) -> str:
    """A completion with its reasoning in think tags, however the model marks it.

    `reasoning` is what an endpoint returned in a separate field. `opened` says whether the chat template wrote the
    opening mark; if that is unknown (None), a closing mark without an opening one implies that it did. `thoughts` are
    the model's marks, None if it has none. Reasoning that is not closed gets no closing tag.
    """
    if reasoning:
        return f"<think>{reasoning}</think>{text if thoughts is None else _answer(text, thoughts)}"
    if thoughts is None:
        return text
    before, closed, rest = text.partition(thoughts.close)
    head, found, thought = before.partition(thoughts.open)
    if not found:
        tags = thoughts.open == THINK.open
        # Tags may be written by a model that should have opened them. Control tokens can only end a thought.
        implied = (
            opened or (closed and (opened is None or not tags)) or any(mark in before for mark in thoughts.structure)
        )
        if not implied:
            return _answer(text, thoughts)
        head, thought = "", before
    if thoughts.structure:
        thought = re.sub(f"(?:{'|'.join(map(re.escape, thoughts.structure))})+", "\n", thought)
    if not closed:
        return f"{head}<think>{thought}"
    if not found and not opened and not tags and not thought.strip():
        return _answer(rest, thoughts)  # the model went straight to its answer
    return f"{head}<think>{thought}</think>{_answer(rest, thoughts)}"


def _answer(text: str, thoughts: Thoughts) -> str:
    """What the marks of an answer enclose; the whole text if there are none."""
    for opening, closing in thoughts.answers:
        _, found, inside = text.partition(opening)
        if found:
            return inside.partition(closing)[0]
    return text


def end_of_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop texts in a completion ends."""
    return min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)


def without_stop(text: str, stops: Sequence[str]) -> str:
    """A completion without the stop text that ends it, unless that is a tag of the format."""
    return text.removesuffix(max((s for s in stops if s not in TAGS and text.endswith(s)), key=len, default=""))


def parse_completion(text: str, finish_reason: str, reasons: bool = True, answer: str = "tags") -> Parsed:
    """Split a completion, in the form that engines return, into r and d.

    R_format holds if one closed think block is followed by one closed answer block, neither is empty, and generation
    was not cut off. Otherwise d is the most plausible part of the text, so that evaluation can still judge it. An open
    thought is no description: d is what came before it, mostly nothing, unless the model ended with an answer block.

    A model that was not asked to reason (`reasons` is false) is in format if it wrote any description; if it reasons
    anyway, the reasoning is split off.

    If `answer` is "text", the model was not asked for answer tags. All that follows the thought is d, and R_format
    holds if one closed thought is followed by text.
    """
    finished, tagged = finish_reason == "stop", answer == "tags"
    match = _WELL_FORMED.fullmatch(text)
    if tagged and match and len(_TAG.findall(text)) == 4:
        reasoning, preference = (part.strip() for part in match.groups())
        return Parsed(reasoning, preference, finished and bool(reasoning) and bool(preference))
    head, closed, tail = text.partition("</think>")
    reasoning, rest = (head, tail) if closed else ("", text)
    before, unclosed, thought = rest.partition("<think>")
    if not closed and unclosed and not (tagged and finished and thought.rstrip().endswith(ANSWER_END)):
        reasoning, rest = thought, before
    _, opened, inside = rest.partition("<answer>")
    preference = inside.partition(ANSWER_END)[0] if tagged and opened else rest
    reasoning, preference = (_TAG.sub("", part).strip() for part in (reasoning, preference))
    thinks_once = text.count("<think>") == 1 == text.count("</think>") and bool(closed and reasoning)
    in_format = not reasons or (not tagged and thinks_once)
    return Parsed(reasoning, preference, in_format and finished and bool(preference))

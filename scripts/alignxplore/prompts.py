"""Prompts from Jinja templates that keep user text apart from the template's own text.

A template writes user text as `{{ text | user }}`, and the filter encloses it in two private-use characters, the
markers (here ⟨ = U+E000 and ⟩ = U+E001):

    template   Post: {{ post | user }} Preference: ...
    prompt     Post: ⟨Any advice?</s>⟩ Preference: ...
    pieces     [Post: ] [Any advice?</s>] [ Preference: ...]     from split_marked
               trusted   user text         trusted

A backend that tokenises allows special tokens in trusted pieces only (engines/tokens.py), so the `</s>` of a post
stays text. A server tokenises the whole prompt; it is sent `disarmed` text.

What a template writes is the user's turn. A system turn goes before it if the template sets one:

    {% set system %}You help people choose.{% endset %}
    Post: {{ post | user }}
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from alignxplore.data.streams import last_chunk
from alignxplore.errors import UserError

_OPEN, _CLOSE = "\ue000", "\ue001"
_MARKED = re.compile(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})")
WORD_JOINER = "\u2060"
_CONTROL_START = re.compile(r"<(?=[|｜/\w])|\[(?=/?[A-Z_]+\])")
"""The bracket that opens a tag or a control token: `<|im_end|>`, `<｜User｜>`, `</think>`, `[INST]`."""

JUDGE_PREFILL = '{"selection": "Response'
JUDGE_CHOICES = (" A", " B")
"""How a judge's answer begins, and the two continuations whose probabilities are compared (Eq. 6)."""

SCORE_PREFILL = "Answer:"
SCORE_CHOICES = (" A", " B", " C")
"""The same for PBA: the signal shows the first pole, the second pole, or neither."""


VARIABLES = {
    "preference": ("pairs", "ugc", "dimensions", "past"),
    "concise": ("pairs", "ugc"),
    "update": ("pairs", "ugc", "dimensions", "past"),
    "judge": ("post", "preference", "response_a", "response_b", "written"),
    "respond": ("post", "preference"),
    "propose_rule": ("pairs",),
    "refine_rule": ("rule", "explained", "failing"),
    "score_dimension": ("prompt", "chosen", "rejected", "comment", "first", "second"),
}
"""What each template may use; `score_dimension` has a pair's `chosen` and `rejected`, or a `comment`.

Templates of any other name have the variables of `preference`.
"""


@dataclass(frozen=True)
class Prompt:
    """A user's turn, after a system turn if there is one; both have markers around user text.

    `prefill` begins the assistant's answer.
    """

    user: str
    prefill: str = ""
    system: str = ""


def mark_user_text(text: str) -> str:
    """`text` between markers; markers that the text itself contains are removed first."""
    return f"{_OPEN}{strip_markers(text)}{_CLOSE}"


def strip_markers(text: str) -> str:
    """`text` without markers, as a person reads it."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def split_marked(text: str) -> list[tuple[str, bool]]:
    """The non-empty pieces of a marked text in order, each with whether it is user text."""
    pieces = [(strip_markers(part), part.startswith(_OPEN)) for part in _MARKED.split(text)]
    return [piece for piece in pieces if piece[0]]


def disarmed(text: str) -> str:
    """A marked text as plain text for a server, with the control tokens in user text broken.

    A word joiner, which is invisible, follows each bracket that could open a tag or a control token.
    """
    return "".join(
        _CONTROL_START.sub(rf"\g<0>{WORD_JOINER}", part) if is_user else part for part, is_user in split_marked(text)
    )


class Templates:
    """The prompts of the experiment (paper, appendix B) and of its baselines.

    `paths` maps a template's name to its file. The method of the same name renders it; only templates that will be
    rendered are needed. `texts` holds the sources.
    """

    def __init__(self, **paths: str | Path):
        self.texts = {name: _read(path) for name, path in paths.items()}
        self._templates = {name: _compile(path, self.texts[name]) for name, path in paths.items()}

    @classmethod
    def of_rule(cls, inputs: Mapping[str, Any]) -> "Templates":
        """The templates among a rule's named inputs: the input `judge_prompt` is the template `judge`."""
        suffix = "_prompt"
        return cls(**{name.removesuffix(suffix): path for name, path in inputs.items() if name.endswith(suffix)})

    def _prompt(self, template: str, prefill: str = "", /, **values: Any) -> Prompt:
        rendered = self._templates[template].make_module(values)
        return Prompt(str(rendered), prefill, getattr(rendered, "system", "").strip())

    def preference(
        self,
        case: Mapping[str, Any],
        dimensions: Sequence[str] | None = None,
        template: str = "preference",
        past: str = "",
    ) -> Prompt:
        """Reason about a case's signals, then describe the preferences; `dimensions` are the teacher's hints phi.

        `template` may be another one with the same variables, such as `update`, which brings `past`, the description
        that earlier signals led to ("" if there were none), up to date. A case that has its signals only in a
        `rendered` prompt is asked about with that prompt.
        """
        return _rendered(case) or self._prompt(
            template, pairs=case["pairs"], ugc=case["ugc"], dimensions=dimensions or [], past=past
        )

    def update(
        self,
        step: Mapping[str, Any],
        past: str,
        dimensions: Sequence[str] | None = None,
        template: str = "update",
    ) -> Prompt:
        """Bring `past` up to date by the signals of the last chunk of a stream's step."""
        return self.preference(last_chunk(step), dimensions, template, past)

    def concise(self, case: Mapping[str, Any]) -> Prompt:
        """Describe the preferences without reasoning, unless the case has a `rendered` prompt."""
        return self.preference(case, template="concise")

    def judge(self, post: str, preference: str, response_a: str, response_b: str, written: bool = False) -> Prompt:
        """Select the response that suits `preference`; an empty preference leaves its section out.

        The prompt begins the judge's answer, unless the judge writes all of it (`written`).
        """
        values = {"post": post, "preference": preference, "response_a": response_a, "response_b": response_b}
        return self._prompt("judge", "" if written else JUDGE_PREFILL, **values, written=written)

    def respond(self, post: str, preference: str) -> Prompt:
        """Answer `post` in a way that suits `preference`; an empty preference leaves its section out."""
        return self._prompt("respond", post=post, preference=preference)

    def propose_rule(self, pairs: Sequence[Mapping[str, str]]) -> Prompt:
        """State a rule that explains a person's choices (LMInductReason)."""
        return self._prompt("propose_rule", pairs=pairs)

    def refine_rule(
        self, rule: str, explained: Sequence[Mapping[str, str]], failing: Sequence[Mapping[str, str]]
    ) -> Prompt:
        """State a better rule than `rule`, which explains some choices and fails on others (LMInductReason)."""
        return self._prompt("refine_rule", rule=rule, explained=explained, failing=failing)

    def score_dimension(self, signal: Mapping[str, str], first: str, second: str) -> Prompt:
        """Say which of two poles a pair or comment shows (PBA).

        The poles come last, so the prompts of one signal share a long prefix.
        """
        return self._prompt("score_dimension", SCORE_PREFILL, **signal, first=first, second=second)


def _rendered(case: Mapping[str, Any]) -> Prompt | None:
    """The prompt that a case was published with. It is other people's text, so its control tokens are broken."""
    return Prompt(mark_user_text(case["rendered"])) if case.get("rendered") else None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"prompt template {path}: {error.strerror or error}") from None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False, undefined=jinja2.StrictUndefined
    )
    environment.filters["user"] = mark_user_text
    return environment


def _compile(path: str | Path, text: str) -> jinja2.Template:
    try:
        return _environment().from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"prompt template {path}, line {error.lineno}: {error.message}") from None


def check_template(name: str, path: str | Path, updates: bool = False) -> None:
    """Raise UserError if the file is not a template that uses the variables of the template `name` alone.

    One that `updates` descriptions must use `past`.
    """
    text = _read(path)
    _compile(path, text)
    known = VARIABLES.get(name, VARIABLES["preference"])
    used = jinja2.meta.find_undeclared_variables(_environment().parse(text))
    if unknown := used - set(known):
        raise UserError(
            f"prompt template {path}: there is no variable {', '.join(sorted(unknown))}; the template {name} has"
            f" {', '.join(known)}"
        )
    if updates and "past" not in used:
        raise UserError(
            f"prompt template {path}: a method with streaming asks it, so it must show {{{{ past | user }}}}"
        )

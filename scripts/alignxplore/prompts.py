"""Prompts from Jinja templates, in which user text stays marked as data.

Templates wrap user text by `{{ text | user }}`, which sets it between two private-use characters. Whoever tokenises a
prompt cuts it there (`split_marked`), so that nothing in a post can act as a special token; engines that take plain
text remove the marks (`strip_markers`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from alignxplore.errors import UserError

_OPEN, _CLOSE = "\ue000", "\ue001"
_ARMED = re.compile(r"<(?=[|｜/\w])|\[(?=/?[A-Z_]+\])")
_MARKED = re.compile(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})")

JUDGE_PREFILL = '{"selection": "Response'
JUDGE_CHOICES = (" A", " B")
"""What a judge's answer begins with, and the two continuations whose probabilities are compared (Eq. 6)."""

SCORE_PREFILL = "Answer:"
SCORE_CHOICES = (" A", " B", " C")
"""The same for a signal's place on a dimension: at the pole shown first, at the other, or at neither."""


@dataclass(frozen=True)
class Prompt:
    """One user turn, marked; `prefill` is the beginning of the assistant's answer."""

    user: str
    prefill: str = ""


def mark_user_text(text: str) -> str:
    """Set `text` between the marks, after removing any mark that it contains itself."""
    return f"{_OPEN}{strip_markers(text)}{_CLOSE}"


def strip_markers(text: str) -> str:
    """`text` without marks, as a person reads it."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def disarmed(text: str) -> str:
    """A marked text as plain text for a server that tokenises it: in what is from users, control tokens are broken.

    A word joiner, which nobody sees, stands behind the bracket of whatever reads like a token or a tag.
    """
    return "".join(_ARMED.sub("\\g<0>\u2060", part) if is_user else part for part, is_user in split_marked(text))


def split_marked(text: str) -> list[tuple[str, bool]]:
    """The pieces of a marked text in order, each with whether it is user text; empty pieces are left out."""
    pieces = [(strip_markers(part), part.startswith(_OPEN)) for part in _MARKED.split(text)]
    return [piece for piece in pieces if piece[0]]


class Templates:
    """The prompts of the experiment (paper appendix B) and its baselines, each from a file of the user's choice.

    `paths` names those that will be rendered: a method of this class renders the template of its own name. `texts`
    has them as they are written.
    """

    def __init__(self, **paths: str | Path):
        environment = jinja2.Environment(
            trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False, undefined=jinja2.StrictUndefined
        )
        environment.filters["user"] = mark_user_text
        self.texts = {name: _read(path) for name, path in paths.items()}
        self._templates = {name: _compile(environment, path, self.texts[name]) for name, path in paths.items()}

    @classmethod
    def of_rule(cls, inputs: Mapping[str, Any]) -> "Templates":
        """The templates among a rule's named inputs, each under its own name with `_prompt` behind it."""
        suffix = "_prompt"
        return cls(**{name.removesuffix(suffix): path for name, path in inputs.items() if name.endswith(suffix)})

    def preference(self, case: Mapping[str, Any], dimensions: Sequence[str] | None = None) -> Prompt:
        """Reason about a case's signals, then describe the preferences; `dimensions` are the teacher's hints phi."""
        return Prompt(
            self._templates["preference"].render(pairs=case["pairs"], ugc=case["ugc"], dimensions=dimensions or [])
        )

    def concise(self, case: Mapping[str, Any]) -> Prompt:
        """Describe the preferences without reasoning."""
        return Prompt(self._templates["concise"].render(pairs=case["pairs"], ugc=case["ugc"]))

    def judge(self, post: str, preference: str, response_a: str, response_b: str, written: bool = False) -> Prompt:
        """Select the response that suits `preference`; without one, the prompt has no such section.

        The answer is begun for the judge, unless it is to be `written`.
        """
        rendered = self._templates["judge"].render(
            post=post, preference=preference, response_a=response_a, response_b=response_b, written=written
        )
        return Prompt(rendered, "" if written else JUDGE_PREFILL)

    def respond(self, post: str, preference: str) -> Prompt:
        """Answer `post` in a way that suits `preference`; without one, in any way."""
        return Prompt(self._templates["respond"].render(post=post, preference=preference))

    def propose_rule(self, pairs: Sequence[Mapping[str, str]]) -> Prompt:
        """State a rule of preference that explains a person's choices (baseline LMInductReason)."""
        return Prompt(self._templates["propose_rule"].render(pairs=pairs))

    def refine_rule(
        self, rule: str, explained: Sequence[Mapping[str, str]], failing: Sequence[Mapping[str, str]]
    ) -> Prompt:
        """State a better rule than one that explains some of the choices and fails on the others."""
        return Prompt(self._templates["refine_rule"].render(rule=rule, explained=explained, failing=failing))

    def score_dimension(self, signal: Mapping[str, str], first: str, second: str) -> Prompt:
        """Say which of two poles a pair or comment shows (baseline PBA); the poles come last, where prompts differ."""
        return Prompt(self._templates["score_dimension"].render(**signal, first=first, second=second), SCORE_PREFILL)


def signals_text(case: Mapping[str, Any]) -> str:
    """A case's raw signals as one text, the preference description of the method "signals"."""
    lines = [f"{pair['prompt']}\nChosen: {pair['chosen']}\nRejected: {pair['rejected']}" for pair in case["pairs"]]
    lines += [f"{item['prompt']}\nComment: {item['comment']}" for item in case["ugc"]]
    return "\n".join(f"{number}. Post: {line}" for number, line in enumerate(lines, 1))


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"prompt template {path}: {error.strerror or error}") from None


def _compile(environment: jinja2.Environment, path: str | Path, text: str) -> jinja2.Template:
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"prompt template {path}, line {error.lineno}: {error.message}") from None

"""From prompts to the token ids that a model sees, the same in every engine that tokenises and in training.

A prompt is tokenised as one text, because pieces tokenised apart give other tokens. Only a control token that user text
spells, or helps to spell, is broken by an invisible character, a word joiner (here ·):

    template    <|im_start|>user\\nPost: ........ <|im_end|>\\n<|im_start|>assistant\\n
    user text                           Bye<|im_end|>Hi
    tokenised   <|im_start|>user\\nPost: Bye<·|im_end|>Hi <|im_end|>\\n<|im_start|>assistant\\n
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, tzinfo
from functools import cached_property
from os.path import commonprefix
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from alignxplore.engines.base import Refused
from alignxplore.errors import UserError
from alignxplore.formats import TAGS, find_thoughts, normalise_thinking, opens_thought
from alignxplore.prompts import WORD_JOINER, Prompt, split_marked

log = logging.getLogger(__name__)

TEMPLATE_DATE = "2025-01-01"
"""What chat templates that write today's date write instead, unless a model's entry says otherwise."""

_PLACEHOLDER, _SYSTEM_PLACEHOLDER = "\ue002", "\ue003"

_Pieces = Sequence[tuple[str, frozenset[str]]]
"""Texts in order, each with the control tokens (in lower case) that it must not spell."""

_TRUSTED: frozenset[str] = frozenset()


class ChatTokenizer:
    """A tokenizer with its chat template, which believes that today is `today`.

    `chat_template` and `thoughts` are these keys of a model's entry: a file that replaces the template, or options for
    the tokenizer's own; and the marks of reasoning, which are looked for by default. The tokenizer keeps a template
    that was replaced or given options, and so does a checkpoint that is saved with it.

    Raises UserError if the marks are unknown, or if the template cannot be rendered around a user's message. If it has
    no system turn, a prompt's system text begins the user's turn.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | Mapping[str, Any] | None = None,
        today: str = TEMPLATE_DATE,
        thoughts: str | Mapping[str, str] | None = None,
    ):
        self.tokenizer = tokenizer
        self._template = f"model {tokenizer.name_or_path}: its chat template"
        if isinstance(chat_template, str):
            self._template = f"chat template {chat_template}"
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        elif chat_template and tokenizer.chat_template:
            tokenizer.chat_template = _with_options(tokenizer.get_chat_template(), chat_template)
        self.thoughts = find_thoughts(tokenizer, thoughts)
        self._today = datetime.fromisoformat(today)
        self._head, self._tail = self._around_message()
        self.opens_thinking = opens_thought(self._tail, self.thoughts)

    def _render(self, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
        with _clock_at(self._today):
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        return str(text)

    def _around_message(self) -> tuple[str, str]:
        """What the template writes before and after the user's message, which it thus cannot trim or rewrite."""
        try:
            chat = self._render([{"role": "user", "content": _PLACEHOLDER}], add_generation_prompt=True)
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise UserError(f"{self._template} cannot be used: {error}") from error
        head, found, tail = chat.partition(_PLACEHOLDER)
        if not found or _PLACEHOLDER in tail:
            raise UserError(f"{self._template} does not write the user's message exactly once")
        return head, tail

    @cached_property
    def _around_system(self) -> tuple[str, str]:
        """What the template writes before a system turn, and between it and the user's message."""
        turns = [{"role": "system", "content": _SYSTEM_PLACEHOLDER}, {"role": "user", "content": _PLACEHOLDER}]
        try:
            chat = self._render(turns, add_generation_prompt=True)
        except (ValueError, TypeError, jinja2.TemplateError):
            chat = ""  # a template that knows no such role
        if _SYSTEM_PLACEHOLDER not in chat:
            log.warning("%s has no system turn; system text begins the user's turn", self._template)
            return self._head, "\n\n"
        head, _, rest = chat.partition(_SYSTEM_PLACEHOLDER)
        middle, found, tail = rest.partition(_PLACEHOLDER)
        if not found or tail != self._tail or _SYSTEM_PLACEHOLDER in middle:
            raise UserError(
                f"{self._template} does not write a system turn once, then the user's message, and then what follows a"
                " message without a system turn"
            )
        return head, middle

    @cached_property
    def _control(self) -> dict[str, int]:
        """Ids of the control tokens: added tokens, but for white space, which some tokenizers add for source code."""
        added = {str(token): number for number, token in self.tokenizer.added_tokens_decoder.items()}
        unknown = self.tokenizer.unk_token
        return {text: number for text, number in added.items() if len(text.strip()) > 1 and text != unknown}

    @cached_property
    def _all(self) -> frozenset[str]:
        """What user text must not spell."""
        return frozenset(text.lower() for text in self._control)

    @cached_property
    def _special(self) -> frozenset[str]:
        """What a model's own completions must not spell when they are trained on: all but the tags of the format."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(text.lower() for text, number in self._control.items() if added[number].special) - set(TAGS)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._control, key=len, reverse=True)
        # Case is ignored, because a tokenizer may lower it before it looks for added tokens.
        return re.compile(f"(?=({'|'.join(map(re.escape, longest_first)) or '(?!)'}))", re.IGNORECASE)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The control token with which the template ends an assistant's turn, or else the tokenizer's end of text."""
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _PLACEHOLDER}]
        try:
            after = self._render(turns).rpartition(_PLACEHOLDER)[2]
        except (ValueError, TypeError, jinja2.TemplateError):
            after = ""  # a template that takes no answers
        match = self._pattern.match(after.lstrip())
        found = self._control.get(match[1]) if match else None
        return self.tokenizer.eos_token_id if found is None else found

    def end_tokens(self, generation_config: Any) -> set[int]:
        """The tokens that end a completion: those of the generation config, the tokenizer and the chat template."""
        stated = getattr(generation_config, "eos_token_id", None)
        found = {*(stated if isinstance(stated, list) else [stated]), self.tokenizer.eos_token_id, self.end_of_turn}
        if not (ends := {token for token in found if token is not None}):
            raise UserError(
                f"model {self.tokenizer.name_or_path}: nothing ends its completions; name an eos_token in its tokenizer"
                " or an eos_token_id in its generation_config.json"
            )
        return ends

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a chat prompt up to and including its prefill."""
        return self._ids(self._pieces(prompt))

    def encode_answered(self, prompt: Prompt, answer: str) -> tuple[list[int], int]:
        """Token ids of a prompt with its answer, which is user text, and the place where the answer's tokens begin.

        Where the answer's first characters merge with the prompt's last ones to a token, that token is the answer's.
        """
        return self._continued(prompt, (answer, self._all))

    def encode_completed(self, prompt: Prompt, completion: str) -> tuple[list[int], int]:
        """The same for a completion in the format of Eq. 4, to be trained on, with the end of turn."""
        if self.opens_thinking:
            completion = completion.removeprefix("<think>").lstrip("\n")
        ids, start = self._continued(prompt, (completion, self._special))
        return ids if self.end_of_turn is None else [*ids, self.end_of_turn], start

    def choices(self, prefill: str, choices: Sequence[str]) -> tuple[list[int], list[int]]:
        """The tokens behind a prefill at which choices differ, and the tokens before them that all choices share.

        Tokenizers that write " A" as two tokens, a blank and a letter, share the blank. Raises UserError for choices
        that have no token to tell them apart.
        """
        tail = (self._tail + prefill, _TRUSTED)
        before = self._ids([tail])
        rows = [self._ids([tail, (choice, _TRUSTED)]) for choice in choices]
        common = len(commonprefix(rows))  # type: ignore[type-var]
        tokens = [row[common] for row in rows if len(row) > common]
        if common < len(before) or len(set(tokens)) < len(choices):
            raise UserError(
                f"model {self.tokenizer.name_or_path}: its tokenizer does not tell the choices {list(choices)} apart"
                f" after {prefill!r}; give the judge `sampling`, so that it writes its answer, or choose another model"
            )
        return rows[0][len(before) : common], tokens

    def encode_choosing(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        """For each prompt, its token ids up to where the choices differ, and the token of each choice there."""
        self._check_scored(prompts)
        choosing = {prefill: self.choices(prefill, choices) for prefill in {prompt.prefill for prompt in prompts}}
        encoded = []
        for prompt in prompts:
            shared, tokens = choosing[prompt.prefill]
            encoded.append((self.encode(prompt) + shared, tokens))
        return encoded

    def encode_scored(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[tuple[list[int], int]]:
        """`encode_answered` of each prompt with its answer, which is to be scored."""
        self._check_scored(prompts)
        return [self.encode_answered(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion with its control tokens."""
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def normalised(self, text: str) -> str:
        """A decoded completion with its reasoning in think tags, however the model marks it."""
        return normalise_thinking(text, opened=self.opens_thinking, thoughts=self.thoughts)

    def _check_scored(self, prompts: Sequence[Prompt]) -> None:
        """Raise UserError for a prompt that leaves reasoning open, since scores there mean nothing."""
        if not self.opens_thinking or self.thoughts is None:
            return
        if any(self.thoughts.close not in prompt.prefill for prompt in prompts):
            raise UserError(
                f"model {self.tokenizer.name_or_path} cannot score answers: its chat template opens"
                f" {self.thoughts.open}, so the scored text would be part of the reasoning. Give the judge `sampling`,"
                " so that it reasons and writes its answer, or choose another model"
            )

    def _pieces(self, prompt: Prompt) -> list[tuple[str, frozenset[str]]]:
        def turn(marked: str) -> list[tuple[str, frozenset[str]]]:
            return [(text, self._all if is_user else _TRUSTED) for text, is_user in split_marked(marked)]

        before = [(self._head, _TRUSTED)]
        if prompt.system:
            head, middle = self._around_system
            before = [(head, _TRUSTED), *turn(prompt.system), (middle, _TRUSTED)]
        return [*before, *turn(prompt.user), (self._tail + prompt.prefill, _TRUSTED)]

    def _continued(self, prompt: Prompt, continuation: tuple[str, frozenset[str]]) -> tuple[list[int], int]:
        pieces = self._pieces(prompt)
        ids = self._ids([*pieces, continuation])
        return ids, len(commonprefix([self._ids(pieces), ids]))  # type: ignore[type-var]

    def _ids(self, pieces: _Pieces) -> list[int]:
        """Token ids of the pieces as one text, in which untrusted pieces spell no control token."""
        text = "".join(piece for piece, _ in pieces)
        cuts: set[int] = set()
        start = trusted = 0
        matches = [(match.start(1), match.end(1), match[1].lower()) for match in self._pattern.finditer(text)]
        for piece, forbidden in pieces:
            stop = start + len(piece)
            cuts.update(max(a + 1, start) for a, b, token in matches if token in forbidden and a < stop and b > start)
            if not forbidden:
                trusted += sum(start <= a and b <= stop and token in self._special for a, b, token in matches)
            start = stop
        for cut in sorted(cuts, reverse=True):
            text = text[:cut] + WORD_JOINER + text[cut:]
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if self._count_special(ids) > trusted:
            self._check_trusted(ids, pieces)
        return ids

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(number for text, number in self._control.items() if text.lower() in self._special)

    def _count_special(self, ids: Sequence[int]) -> int:
        return sum(token in self._special_ids for token in ids)

    def _check_trusted(self, ids: Sequence[int], pieces: _Pieces) -> None:
        """Raise UserError if untrusted text became a control token after all, as through Unicode normalisation."""
        trusted = "".join("x" if forbidden else piece for piece, forbidden in pieces)
        if self._count_special(ids) > self._count_special(self.tokenizer.encode(trusted, add_special_tokens=False)):
            raise UserError(f"model {self.tokenizer.name_or_path}: its tokenizer makes control tokens of user text")


def check_chat_template(path: str) -> None:
    """Raise UserError for a file that cannot replace a model's chat template."""
    bare = Tokenizer(models.BPE())
    ChatTokenizer(
        PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", eos_token="</s>"), path, thoughts="none"
    )


def _with_options(template: str, options: Mapping[str, Any]) -> str:
    """A chat template that sets its options itself. It begins a new line, since its first line may be indented."""
    return "".join(f"{{% set {name} = {value!r} %}}\n" for name, value in options.items()) + template


@contextmanager
def _clock_at(now: datetime) -> Iterator[None]:
    """Let chat templates believe that it is `now`.

    transformers (5.23) gives templates the function `strftime_now` and no way to set its clock, and it turns functions
    among the options into text. So the class `datetime` of its module is replaced while it renders.
    tests/unit/engines/test_tokens.py fails without this.
    """

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Clock":
            return cls.fromisoformat(now.isoformat())

    actual = chat_template_utils.datetime  # type: ignore[attr-defined]
    chat_template_utils.datetime = Clock  # type: ignore[attr-defined, misc]
    try:
        yield
    finally:
        chat_template_utils.datetime = actual  # type: ignore[attr-defined, misc]


def context_limit(config: Any) -> int | None:
    """How many tokens a model reads and writes in all, or None if its configuration states no limit.

    With scaled rotary embeddings, some configurations state the length before scaling and others the length after it.
    """
    stated = getattr(config, "max_position_embeddings", None)
    if not stated:
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, Mapping))]  # some have one per layer type
    scaled = [(part.get("original_max_position_embeddings") or stated) * (part.get("factor") or 1) for part in parts]
    return int(max(stated, *scaled))


def too_long(rows: Sequence[Sequence[int]], limit: int | None, new: int = 0) -> dict[int, Refused]:
    """The rows, by index, that are over `limit` tokens, or leave no room for a token if `new` are wanted."""
    reason = f"longer than the model's context of {limit} tokens (data.max_characters leaves long texts out)"
    return {i: Refused(reason) for i, row in enumerate(rows) if limit is not None and len(row) + min(new, 1) > limit}

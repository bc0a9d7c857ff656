"""What a written judgement selects, read by a small grammar. When in doubt it selects nothing.

An answer is split into sentences of words. Markup, brackets and quotation marks are no words, and a JSON object counts
as the sentence `selection: VALUE`. A sentence states a choice in one of these forms:

    labelled      LABEL (":" | "is") CHOICE      Final answer: B             {"selection": "Response B"}
    verb          [SUBJECT] VERB CHOICE          I choose Response B over Response A.
    predicate     CHOICE is GOOD                 Response B is the better choice.
    conclusion    so CHOICE                      A warm reply fits best, so Response B.
    bare          CHOICE                         **Response B**              as the last sentence only

    CHOICE        [NOUN] LETTER                  Response B, Antwort B, B

"a" is an article, so a bare letter counts in upper case or in quotation marks only. Negations, conditions and questions
state nothing. Neither does a choice whose sentence names the other response as well, unless a word such as "over" says
that the other one is not chosen.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

Verdict = Literal["A", "B"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOUNS = _words("response answer option reply candidate antwort réponse 回答 回复 选项")
_LABELS = {
    *_words("selection answer choice verdict decision winner pick selected preferred"),
    *_words("auswahl wahl antwort entscheidung choix réponse 答案 选择"),
    *("selected response", "chosen response", "preferred response", "better response", "best response"),
}
_LINKS = {":", "is", "is :", "=", "-", "→", "would be", "will be", "ist", "lautet", "est", "是", "为"}
_SUBJECTS = _words("i i'd i'll i'm we we'd person user they they'd he she ich je 我")
_VERBS = {
    *_words("choose chooses chose choosing select selects selected selecting pick picks prefer prefers favor favors"),
    *_words("favour favours recommend wähle bevorzuge choisis 选择 选"),
    *("vote for", "opt for", "go with", "goes with", "going with"),
}
_CONCLUSIONS = _words("so therefore thus hence daher donc → 所以")
_OPENERS = _CONCLUSIONS | _words("i think believe that overall clearly 我 认为")
"""Words that may come before a choice and its predicate."""
_PREDICATES = {
    *(f"is {adverb}{good}" for adverb in ("", "clearly ", "much ") for good in ("better", "best", "preferable")),
    *(f"is {word} {quality}" for word in ("the", "my") for quality in ("better", "best", "winner", "answer")),
    *(f"is {word} {quality} {noun}" for word in ("the", "my") for quality in ("better", "best") for noun in _NOUNS),
    *(f"is {word} {quality} choice" for word in ("the", "my") for quality in ("better", "best", "preferred")),
    *("is my choice", "is my selection", "is the better one", "is the better fit", "is the best fit"),
    *("is preferred", "is better suited", "fits better", "fits best", "wins", "更好"),
}
_FOLLOWERS = _words("over because since as for here overall rather instead than in with due given not but")
_FOLLOWERS |= _words("weil denn statt")
"""Words that may follow a choice."""
_RELATIONS = _words("over because since rather instead than not due given weil denn statt >")
"""Words after a choice which say that the response named next is not chosen."""
_NEGATIONS = _words("not no never neither nor none cannot hardly nicht kein keine weder pas ni 不 null")
_NEGATIONS |= _words("wrong worse worst rejected incorrect second other previous least")
_HEDGES = _words("whether may might could was were says said asks asked claims wants almost between some")
_CONDITIONS = _words("if unless wenn falls 如果")
_UNDECIDED = _NEGATIONS | _words("both either tie unsure equal unclear undecided beide")
_BOUNDARIES = _CONCLUSIONS | _words(", : - but and because while although aber")
"""Words that begin a clause, which is as far as a negation reaches."""

_JSON = json.JSONDecoder()
_FIELD = re.compile(r'"selection"\s*:\s*"([^"]*)"')
_EXACT: dict[str, Verdict] = {"Response A": "A", "Response B": "B"}
_FRAMED = re.compile(r"\\boxed\{([^\n]*)\}|\[\[([^\]\n]*)\]\]|<(?:answer|selection|choice)>([^<]*)</\w+>")
_QUOTED_LETTER = re.compile(r"""(["'`])([ab])\1""")
_QUOTATION = re.compile(r'"[^"\n]*\s[^"\n]*\s[^"\n]*"')
"""A quotation of three words or more: it is somebody else's statement."""
_NOTE = re.compile(r"\([^()\n]*\)(?=\W*:)")
"""A note before a colon, as in `Selection (A or B): B`."""
_CHINESE = re.compile("(认为|回答|回复|选项|答案|选择|选|我|是|为|不|更好|如果|所以)")
_COMMAND = re.compile(r"\\[a-z]+")
_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?|\d+|[.!?;:,/|<>=→\n-]")


def parse_selection(text: str) -> Verdict | None:
    """The response that a written judgement selects after its reasoning; unfinished reasoning selects nothing.

    The last labelled choice counts, unless a later sentence states the other one. If no choice has a label, all that
    are stated must agree.
    """
    answer = _after_reasoning(text)
    stated: set[Verdict | None] = set()
    for is_labelled, choice in _statements(_sentences(_plain(answer))):
        stated = {choice} if is_labelled else stated | {choice}
    return stated.pop() if len(stated) == 1 else None


def exact_selection(text: str) -> Verdict | None:
    """The response that the first field `selection` after the reasoning names as "Response A" or "Response B"."""
    field = _FIELD.search(_after_reasoning(text))
    return _EXACT.get(field[1]) if field else None


def _after_reasoning(text: str) -> str:
    """What a reply says after its reasoning; empty if that is unfinished."""
    _, closed, answer = text.rpartition("</think>")
    return "" if "<think>" in text and not closed else answer


def _plain(answer: str) -> str:
    """The answer with each JSON object and each framed choice, such as a LaTeX box, as a labelled sentence."""
    answer = unicodedata.normalize("NFKC", answer).translate(str.maketrans("“”‘’。", "\"\"''."))
    answer = _FRAMED.sub(lambda framed: f"\nselection: {framed[1] or framed[2] or framed[3] or 'none'}\n", answer)
    pieces, at = [], 0
    while (start := answer.find("{", at)) >= 0:
        pieces.append(_prose(answer[at:start]))
        try:
            fields, at = _JSON.raw_decode(answer, start)
        except json.JSONDecodeError:
            at = start + 1
        except RecursionError:
            return ""  # no judge nests so deeply
        else:
            pieces.append(_selection_field(fields))
    return "".join([*pieces, _prose(answer[at:])])


def _selection_field(fields: Mapping[str, Any]) -> str:
    """A labelled sentence for the field of a JSON object that holds the selection; empty if there is none."""
    values = {key.lower().replace("_", " ").removeprefix("final "): value for key, value in fields.items()}
    names = [name for name in values if name in _LABELS]
    if not names:
        return "".join(_selection_field(value) for value in fields.values() if isinstance(value, dict))
    value = values["selection" if "selection" in names else names[-1]]
    text = value.strip() if isinstance(value, str) else ""
    return f"\nselection: {text.upper() if len(text) == 1 else text or 'none'}\n"


def _prose(text: str) -> str:
    """Text without quotations, notes and LaTeX commands; a letter in quotation marks is in upper case."""
    text = _QUOTED_LETTER.sub(lambda quoted: quoted[2].upper(), text)
    text = _COMMAND.sub(" ", _NOTE.sub(" ", _QUOTATION.sub(" ", text)))
    return text.replace("n't", " not")


def _sentences(text: str) -> list[list[str]]:
    """The words of each sentence but questions; a heading that is a label is joined to the sentence below it."""
    sentences: list[list[str]] = []
    words: list[str] = []
    for word in [*_WORD.findall(_CHINESE.sub(r" \1 ", text)), "\n"]:
        heading = words if words[-1:] == [":"] else [*words, ":"]
        if word not in ".!?;\n":
            words.append(word)
        elif word == "\n" and _before_label(heading) is not None:
            words = heading
        else:
            if words and word != "?":
                sentences.append(words)
            words = []
    return sentences


def _statements(sentences: Sequence[Sequence[str]]) -> Iterator[tuple[bool, Verdict | None]]:
    """Yield what is stated, in order: whether it has a label, and the choice; None if a label has no valid choice."""
    for number, sentence in enumerate(sentences):
        words = [word.lower() for word in sentence]
        after = 0
        for at in range(len(words)):
            if at < after:
                continue
            choice, after = _choice(sentence, at)
            rest = sentence[after + _predicate(words[after:]) :]
            unlabelled = _before_label(words[:at])
            if unlabelled is not None:
                if choice:
                    yield True, None if _has(_clause(unlabelled), _NEGATIONS) else _confirmed(choice, rest)
                elif words[at] in _UNDECIDED:
                    yield True, None
            elif choice and not _has(words, _CONDITIONS):
                is_last = number == len(sentences) - 1
                if _states(words, at, after, is_last) and (confirmed := _confirmed(choice, rest)):
                    yield False, confirmed


def _states(words: Sequence[str], at: int, after: int, is_last: bool) -> bool:
    """Whether a sentence states the choice at words[at:after] without a label."""
    clause = _clause(words[:at])
    subject = _without(clause, _VERBS)
    if subject is not None:
        return not _has(subject, _NEGATIONS | _HEDGES) and (not subject or _has(subject, _SUBJECTS))
    if _predicate(words[after:]):
        return _OPENERS.issuperset(clause)
    concludes = _has(words[max(at - 2, 0) : at], _CONCLUSIONS) and not _has(words[max(at - 3, 0) : at], _NEGATIONS)
    return not clause and after == len(words) and (concludes or (is_last and at == 0))


def _choice(words: Sequence[str], at: int) -> tuple[Verdict | None, int]:
    """The response that is named at a place of a sentence, if there is one, and the place after it."""
    named = [*words[at:], "", "", ""]
    place = int(named[0].lower() in ("the", "die"))
    has_noun = named[place].lower() in _NOUNS
    letter = named[place + has_noun]
    place += at + has_noun + 1
    if letter in ("A", "B") or (has_noun and letter in ("a", "b") and place == len(words)):
        return ("A" if letter.upper() == "A" else "B"), place
    return None, at


def _predicate(words: Sequence[str]) -> int:
    """How many words the predicate has that begins `words`; 0 if there is none."""
    return next((size for size in (4, 3, 2, 1) if " ".join(words[:size]) in _PREDICATES), 0)


def _confirmed(choice: Verdict, rest: Sequence[str]) -> Verdict | None:
    """The choice, unless the rest of its sentence goes on in an unknown way or names the other response as well."""
    if rest and rest[0].isalnum() and rest[0].lower() not in _FOLLOWERS:
        return None
    others = [place for place in range(len(rest)) if _choice(rest, place)[0] not in (None, choice)]
    if not others:
        return choice
    turns = [word.lower() for word in rest[: others[0]] if word.lower() in _RELATIONS | {"or", "and"}]
    return choice if turns and turns[0] in _RELATIONS else None


def _before_label(words: Sequence[str]) -> Sequence[str] | None:
    """The words before a label and its link, which end `words`; None if `words` do not end so."""
    linked = _without([word.lower() for word in words], _LINKS)
    return None if linked is None else _without(linked, _LABELS)


def _without(words: Sequence[str], phrases: Collection[str]) -> Sequence[str] | None:
    """Words without the longest phrase that ends them; None if none does."""
    size = next((size for size in (2, 1) if len(words) >= size and " ".join(words[-size:]) in phrases), None)
    return None if size is None else words[:-size]


def _clause(words: Sequence[str]) -> Sequence[str]:
    """The last clause of the words."""
    return words[max((place + 1 for place, word in enumerate(words) if word in _BOUNDARIES), default=0) :]


def _has(words: Sequence[str], kind: Collection[str]) -> bool:
    return any(word in kind for word in words)

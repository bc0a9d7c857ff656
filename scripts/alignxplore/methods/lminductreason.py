"""LMInductReason: propose rules, test them on the user's pairs, refine the best one.

Qiu et al. 2024, "Phenomenal Yet Puzzling: Testing Inductive Reasoning Capabilities of Language Models with Hypothesis
Refinement". Here a hypothesis is a rule of preference and its interpreter is a judge: a rule explains a pair if the
judge, given the rule, selects the chosen response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from alignxplore.engines import Completion, Engine, Sampling
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.judging.judge import Judge, is_correct
from alignxplore.methods.descriptions import Description, preference_rows
from alignxplore.methods.model import describe
from alignxplore.prompts import Prompt, Templates


@dataclass(frozen=True)
class _Hypothesis:
    """A rule, the completion it was parsed from, and whether it explains each pair. A refused one explains nothing."""

    rule: str
    completion: Completion
    explains: tuple[bool, ...]

    @property
    def is_refused(self) -> bool:
        return self.completion.finish_reason == "refused"

    def __str__(self) -> str:
        if self.is_refused:
            return "[refused]"
        fails = ", ".join(str(number) for number, explained in enumerate(self.explains, 1) if not explained)
        score = f"{sum(self.explains)} of {len(self.explains)}"
        return f"[{score}{', not ' if fails else ''}{fails}] {self.rule}"


@dataclass
class _Search:
    """The hypotheses of one case, round by round."""

    pairs: Sequence[Mapping[str, str]]
    rounds: list[list[_Hypothesis]] = field(default_factory=list)

    @property
    def best(self) -> _Hypothesis:
        """The hypothesis that explains the most pairs; the earliest of equals, and a refused one only if all are."""
        tried = (hypothesis for hypotheses in self.rounds for hypothesis in hypotheses)
        return max(tried, key=lambda h: (not h.is_refused, sum(h.explains)))

    @property
    def is_open(self) -> bool:
        """Whether no rule explains all pairs yet; a case whose first prompt is refused stays without a rule."""
        return not self.rounds or not (all(self.best.explains) or self.best.is_refused)

    def prompt(self, templates: Templates) -> Prompt:
        """The prompt that asks for a first rule, or for a better one than the best so far."""
        if not self.rounds:
            return templates.propose_rule(self.pairs)
        best = self.best
        tested = list(zip(self.pairs, best.explains, strict=True))
        explained, failing = ([pair for pair, holds in tested if holds == wanted] for wanted in (True, False))
        return templates.refine_rule(best.rule, explained, failing)

    def trace(self) -> str:
        """Every round's rules, each with how many pairs it explains and the numbers of those it does not."""
        return "\n".join(
            line for number, tried in enumerate(self.rounds, 1) for line in (f"Round {number}", *map(str, tried))
        )


def induced_preferences(
    engine: Engine,
    judge: Judge,
    templates: Templates,
    cases: pl.DataFrame,
    method: str,
    entry: Mapping[str, Any],
    sampling: Sampling,
) -> pl.DataFrame:
    """PREFERENCE rows whose description is the best rule and whose reasoning is the trace of the search.

    Each of up to `entry["rounds"]` rounds samples `entry["hypotheses"]` rules for every case that no rule explains
    yet. Token counts cover all completions of a case. Raises UserError for a case without pairs.
    """
    rows = list(cases.iter_rows(named=True))
    if lacking := next((row for row in rows if not row["pairs"]), None):
        raise UserError(
            f"methods.{method}.benchmarks: {lacking['benchmark']} has cases without pairs; rules are tested on pairs"
        )
    searches = [_Search(row["pairs"]) for row in rows]
    for number in range(entry["rounds"]):
        open_searches = [search for search in searches if search.is_open]
        if not open_searches:
            break
        # A new seed each round: if no rule improved, the prompt is the same and would get the same answers.
        reseeded = replace(sampling, seed=sampling.seed + number)
        _add_round(engine, judge, templates, open_searches, entry["hypotheses"], reseeded)
    return preference_rows(rows, method, [_description(search) for search in searches])


def _add_round(
    engine: Engine, judge: Judge, templates: Templates, searches: Sequence[_Search], hypotheses: int, sampling: Sampling
) -> None:
    """Add one round to each search. The model is asked for all rules at once, the judge to test all at once."""
    asked = [search for search in searches for _ in range(hypotheses)]
    answers = describe(engine, [search.prompt(templates) for search in asked], sampling, reasons=False)
    tests = [
        (pair, parsed.preference)
        for search, (completion, parsed) in zip(asked, answers, strict=True)
        if completion.finish_reason != "refused"
        for pair in search.pairs
    ]
    verdicts = iter(is_correct(judge.p_chosen([pair for pair, _ in tests], [rule for _, rule in tests])).tolist())
    for search in searches:
        search.rounds.append([])
    for search, (completion, parsed) in zip(asked, answers, strict=True):
        rule, refused = parsed.preference, completion.finish_reason == "refused"
        # Without a rule the judge still selects a response, so an empty rule could seem to explain it.
        explains = tuple(not refused and next(verdicts) and bool(rule) for _ in search.pairs)
        search.rounds[-1].append(_Hypothesis(rule, completion, explains))


def _description(search: _Search) -> Description:
    best = search.best
    completions = [hypothesis.completion for tried in search.rounds for hypothesis in tried]
    return Description(
        Parsed(search.trace(), best.rule, bool(best.rule)),
        best.completion.finish_reason,
        sum(completion.prompt_tokens for completion in completions),
        sum(completion.completion_tokens for completion in completions),
    )

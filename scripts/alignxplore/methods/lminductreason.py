"""LMInductReason: rules are proposed, tested on the signals, and refined where they fail.

Qiu et al. 2024, "Phenomenal Yet Puzzling: Testing Inductive Reasoning Capabilities of Language Models with Hypothesis
Refinement". A hypothesis is a rule of preference, and what interprets it is a judge: a rule explains a pair if the
judge, told the rule, selects the chosen response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from alignxplore.engines import Completion, Engine, Sampling
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.judging.judge import Judge, is_correct
from alignxplore.methods.model import describe
from alignxplore.methods.preferences import Result, preference_rows
from alignxplore.prompts import Prompt, Templates


@dataclass(frozen=True)
class Hypothesis:
    """A rule, the completion that it was parsed from, and for each pair whether the rule explains it."""

    rule: str
    completion: Completion
    explains: tuple[bool, ...]

    def __str__(self) -> str:
        fails = ", ".join(str(number) for number, explained in enumerate(self.explains, 1) if not explained)
        score = f"{sum(self.explains)} of {len(self.explains)}"
        return f"[{score}{', not ' if fails else ''}{fails}] {self.rule}"


@dataclass
class Search:
    """The hypotheses of one case, round by round."""

    pairs: Sequence[Mapping[str, str]]
    rounds: list[list[Hypothesis]] = field(default_factory=list)

    @property
    def best(self) -> Hypothesis:
        """The first of those that explain the most pairs."""
        return max((h for tried in self.rounds for h in tried), key=lambda hypothesis: sum(hypothesis.explains))

    @property
    def is_open(self) -> bool:
        """Whether no rule so far explains all pairs."""
        return not self.rounds or not all(self.best.explains)

    def prompt(self, templates: Templates) -> Prompt:
        """Asks for a first rule, or for a better one than the best so far."""
        if not self.rounds:
            return templates.propose_rule(self.pairs)
        best = self.best
        explained, failing = (
            [pair for pair, is_explained in zip(self.pairs, best.explains, strict=True) if is_explained == wanted]
            for wanted in (True, False)
        )
        return templates.refine_rule(best.rule, explained, failing)

    def trace(self) -> str:
        """Every round's rules, each with how many pairs it explains and the numbers of those that it does not."""
        rounds = enumerate(self.rounds, 1)
        return "\n".join("\n".join((f"Round {number}", *map(str, tried))) for number, tried in rounds)


def induced_preferences(
    engine: Engine,
    judge: Judge,
    templates: Templates,
    cases: pl.DataFrame,
    method: str,
    entry: Mapping[str, Any],
    sampling: Sampling,
) -> pl.DataFrame:
    """PREFERENCE rows whose description is the best rule and whose reasoning is the trace of the search for it.

    A round samples `entry["hypotheses"]` rules for each case that no rule explains yet; there are `entry["rounds"]`
    at most. Tokens are those of all completions of a case. Raises UserError for a case without pairs.
    """
    rows = list(cases.iter_rows(named=True))
    if lacking := next((row for row in rows if not row["pairs"]), None):
        raise UserError(
            f"methods.{method}.benchmarks: {lacking['benchmark']} has cases without pairs, on which rules are tested"
        )
    searches = [Search(row["pairs"]) for row in rows]
    for number in range(entry["rounds"]):
        unexplained = [search for search in searches if search.is_open]
        if not unexplained:
            break
        # Another seed each round, or a prompt that no rule improved on would be answered as before.
        drawn = replace(sampling, seed=sampling.seed + number)
        _search_once(engine, judge, templates, unexplained, entry["hypotheses"], drawn)
    return preference_rows(rows, method, [_result(search) for search in searches])


def _search_once(
    engine: Engine, judge: Judge, templates: Templates, searches: Sequence[Search], hypotheses: int, sampling: Sampling
) -> None:
    """Add one round to each search: all rules are asked for together, and all are tested together."""
    asked = [search for search in searches for _ in range(hypotheses)]
    answers = describe(engine, [search.prompt(templates) for search in asked], sampling, reasons=False)
    rules = [parsed.preference for _, parsed in answers]
    tests = [(pair, rule) for search, rule in zip(asked, rules, strict=True) for pair in search.pairs]
    verdicts = iter(is_correct(judge.p_chosen([pair for pair, _ in tests], [rule for _, rule in tests])).tolist())
    for search in searches:
        search.rounds.append([])
    for search, rule, (completion, _) in zip(asked, rules, answers, strict=True):
        # An empty rule explains nothing, whatever the judge selects without one.
        explains = tuple(next(verdicts) and bool(rule) for _ in search.pairs)
        search.rounds[-1].append(Hypothesis(rule, completion, explains))


def _result(search: Search) -> Result:
    best = search.best
    completions = [hypothesis.completion for tried in search.rounds for hypothesis in tried]
    return (
        Parsed(search.trace(), best.rule, bool(best.rule)),
        best.completion.finish_reason,
        sum(completion.prompt_tokens for completion in completions),
        sum(completion.completion_tokens for completion in completions),
    )

"""The reward of a rollout: R_jud or R_gen times R_format (Eq. 3-6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alignxplore.formats import Parsed
from alignxplore.judging.judge import Judge, is_correct


@dataclass(frozen=True)
class Reward:
    """Scores parsed completions on the target pairs of their cases, each 0 or 1."""

    judge: Judge

    def __call__(self, parsed: Sequence[Parsed], cases: Sequence[Mapping[str, Any]]) -> list[float]:
        """1.0 if the completion is in format and its description makes the chosen response win, else 0.0.

        Completions out of format are not judged; equal (case, description) pairs are judged once.
        """
        rewards = [0.0] * len(parsed)
        judged: dict[tuple[str, str, str, str], list[int]] = {}
        for index, (completion, case) in enumerate(zip(parsed, cases, strict=True)):
            if completion.format_ok:
                key = (case["prompt"], case["chosen"], case["rejected"], completion.preference)
                judged.setdefault(key, []).append(index)
        if not judged:
            return rewards
        targets = [dict(zip(("prompt", "chosen", "rejected"), key[:3], strict=True)) for key in judged]
        probabilities = self.judge.p_chosen(targets, [key[3] for key in judged])
        for indices, correct in zip(judged.values(), is_correct(probabilities), strict=True):
            for index in indices:
                rewards[index] = float(correct)
        return rewards

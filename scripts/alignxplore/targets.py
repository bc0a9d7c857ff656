"""Which cases ask the same: verdicts on one target are not independent, so that intervals draw its cases together."""

import hashlib
import json

import polars as pl


def target_ids(cases: pl.DataFrame) -> pl.Series:
    """A stable id of each case's target, which is a post and two responses, whichever of them was chosen.

    P-SOUPS has one target under opposite preferences, and a benchmark that is made from another has its targets.
    """
    targets = cases.select("prompt", "chosen", "rejected").iter_rows()
    return pl.Series("target", [_target_id(*target) for target in targets], dtype=pl.String)


def _target_id(prompt: str, chosen: str, rejected: str) -> str:
    text = json.dumps([prompt, *sorted((chosen, rejected))])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

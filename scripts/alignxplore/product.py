"""What a trained model is for: one user's preferences from their signals, and responses judged by them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignxplore.engines import Engine, Sampling
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.inference import describe
from alignxplore.judging import Judge
from alignxplore.prompts import Templates

_FORMS = {"pairs": ("prompt", "chosen", "rejected"), "ugc": ("prompt", "comment")}


def read_signals(text: str, source: str) -> dict[str, list[dict[str, str]]]:
    """One user's signals as a case has them: `pairs` (prompt, chosen, rejected) and `ugc` (prompt, comment).

    The JSON is an object with either or both, or a list of pairs and comments. Raises UserError that names the record
    and field of `source` that is wrong.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source}: not valid JSON: {error}") from None
    if isinstance(value, list):
        comments = [item for item in value if isinstance(item, dict) and "comment" in item]
        value = {"pairs": [item for item in value if item not in comments], "ugc": comments}
    if not isinstance(value, dict) or not any(value.get(form) for form in _FORMS):
        raise UserError(f"{source}: there are no signals: it must hold a list of pairs (prompt, chosen, rejected)")
    if unknown := sorted(set(value) - set(_FORMS)):
        raise UserError(f"{source}: unknown field {unknown[0]!r}; there are pairs and ugc")
    signals: dict[str, list[dict[str, str]]] = {}
    for form, names in _FORMS.items():
        signals[form] = []
        for number, item in enumerate(value.get(form) or [], 1):
            for name in names:
                if not isinstance(item, dict) or not isinstance(item.get(name), str) or not item[name].strip():
                    raise UserError(f"{source}: {form} {number}: {name!r} must be a text that is not empty")
            signals[form].append({name: item[name] for name in names})
    return signals


def infer(engine: Engine, templates: Templates, signals: Mapping[str, Any], sampling: Sampling) -> Parsed:
    """Reasoning r and preference description d for one user's signals (Eq. 1)."""
    ((_, parsed),) = describe(engine, [templates.preference(signals)], sampling)
    return parsed


def compare(engine: Engine, templates: Templates, preference: str, post: str, first: str, second: str) -> float:
    """Probability that a user with this preference prefers the first response, over both orders (Eq. 6)."""
    case = {"prompt": post, "chosen": first, "rejected": second}
    return float(Judge("jud", engine, templates).p_chosen([case], [preference]).mean())


def packaged_templates(directory: Path) -> Templates:
    """The templates for inference and judging in `directory`."""
    return Templates(**{name: directory / f"{name}.jinja" for name in ("preference", "judge")})

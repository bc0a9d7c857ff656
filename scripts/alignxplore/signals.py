"""A trained model in use: read one user's signals, infer the user's preference, and judge responses by it."""

import json
import math
from collections.abc import Mapping
from typing import Any

from alignxplore.engines import Completion, Engine, Sampling
from alignxplore.errors import UserError
from alignxplore.formats import Parsed
from alignxplore.judging.judge import Judge
from alignxplore.methods.model import describe
from alignxplore.prompts import Templates

_FIELDS = {"pairs": ("prompt", "chosen", "rejected"), "ugc": ("prompt", "comment")}


def read_signals(text: str, source: str) -> dict[str, list[dict[str, str]]]:
    """One user's signals in the form of a benchmark case: `pairs` and `ugc` (comments).

    `text` is JSON: an object with `pairs`, `ugc` or both, or a list that may mix pairs and comments. `source` names it
    in errors. Raises UserError that names the first record and field that is not valid.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not valid JSON: {error}") from None
    if isinstance(value, list):
        records = [("item", number, _form(item), item) for number, item in enumerate(value, 1)]
    elif isinstance(value, dict):
        if unknown := sorted(set(value) - set(_FIELDS)):
            raise UserError(f"{source}: unknown field {unknown[0]!r}; expected pairs or ugc")
        for form, items in value.items():
            if not isinstance(items, list):
                raise UserError(f"{source}: {form!r} must be a list")
        records = [(form, number, form, item) for form in value for number, item in enumerate(value[form], 1)]
    else:
        records = []
    if not records:
        raise UserError(f"{source}: no signals found; expected a list of pairs (prompt, chosen, rejected)")
    signals: dict[str, list[dict[str, str]]] = {form: [] for form in _FIELDS}
    for group, number, form, item in records:
        signals[form].append(_record(item, form, f"{source}: {group} {number}"))
    return signals


def _form(item: Any) -> str:
    """`ugc` if an item of a mixed list is a comment, else `pairs`."""
    is_comment = isinstance(item, dict) and "comment" in item and not {"chosen", "rejected"} & set(item)
    return "ugc" if is_comment else "pairs"


def _record(item: Any, form: str, where: str) -> dict[str, str]:
    names = _FIELDS[form]
    if not isinstance(item, dict):
        raise UserError(f"{where}: must be an object with {', '.join(names)}")
    if unknown := sorted(set(item) - set(names)):
        raise UserError(f"{where}: unknown field {unknown[0]!r}; {form} have {', '.join(names)}")
    for name in names:
        if not isinstance(item.get(name), str) or not item[name].strip():
            raise UserError(f"{where}: {name!r} must be a non-empty string")
        _check_unicode(item[name], f"{where}: {name!r}")
    return {name: item[name] for name in names}


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} holds a lone surrogate, which is not valid Unicode") from None


def infer(
    engine: Engine,
    templates: Templates,
    signals: Mapping[str, Any],
    sampling: Sampling,
    reasons: bool = True,
    past: str | None = None,
) -> tuple[Completion, Parsed]:
    """The model's completion on one user's signals, and the reasoning r and description d that it contains (Eq. 1).

    With `reasons=False`, the model is asked for a description without reasoning. With `past`, the description of
    earlier signals, it is asked to bring that up to date.
    """
    template = "update" if past is not None else "preference" if reasons else "concise"
    prompt = templates.preference(signals, template=template, past=past or "")
    (answer,) = describe(engine, [prompt], sampling, reasons)
    return answer


def judge(engine: Engine, templates: Templates, preference: str, post: str, first: str, second: str) -> float:
    """Probability that a user with this preference prefers the first response, averaged over both orders (Eq. 6).

    Raises UserError for a text that is not valid Unicode, and if the model refuses the prompt.
    """
    for name, text in (("preference", preference), ("post", post), ("first", first), ("second", second)):
        _check_unicode(text, name)
    case = {"prompt": post, "chosen": first, "rejected": second}
    p_first = float(Judge("jud", engine, templates).p_chosen([case], [preference]).mean())
    if math.isnan(p_first):
        raise UserError(f"model {engine.name} refuses the prompt; the log says why")
    return p_first

"""Checks of documents against a JSON schema, with one-line errors that name the wrong key."""

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from alignxplore.errors import UserError

MAY_BE_SECRET = {
    "base_url": "must be an address such as https://HOST/v1, without user, password or query: a key belongs in the"
    " environment variable that key_env names",
    "key_env": "must be the name of an environment variable, of letters, digits and '_': the key itself belongs in"
    " that variable",
}
"""The message about a wrong value of these keys; it does not repeat the value."""


def check_document(document: Any, schema_file: Path, name: str, part: Sequence[str] = ()) -> None:
    """Raise a UserError that names the first key of `document` that breaks the schema, if there is one.

    If the document is only a part of what the schema describes, `part` is the path to that part's schema.
    """
    _check_plain(document, name, [])
    schema = yaml.safe_load(schema_file.read_text(encoding="utf-8"))
    definitions = schema.get("$defs", {})
    for key in part:
        schema = schema[key]
    validator = jsonschema.Draft202012Validator({"$defs": definitions, **schema})
    error = jsonschema.exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        raise UserError(f"{name}: {_describe(error)}")


def known(key: str, value: str, names: Iterable[str]) -> None:
    """Raise a UserError that suggests a name, if `value` is not among `names`."""
    names = list(names)
    if value not in names:
        close = difflib.get_close_matches(value, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
        raise UserError(f"{key}: no such name {value!r}{hint}")


def _check_plain(value: Any, name: str, path: list[str]) -> None:
    """Check that keys are text and numbers are finite, which a schema cannot express."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise UserError(f"{name}: {_no_text('.'.join(path), key)}")
            _check_plain(part, name, [*path, key])
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            _check_plain(part, name, [*path, str(place)])
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: {'.'.join(path)}: must be a finite number, not {value}")


def _no_text(path: str, value: Any) -> str:
    """The message about a value that YAML does not read as text."""
    written = json.dumps(value) if value is None or isinstance(value, bool | int | float) else str(value)
    return f"{path or 'top level'}: {written} is not of type 'string': write it in quotes"


def _describe(error: jsonschema.ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(set(error.instance) - set(known))[0]
        key = f"{path}.{unknown}" if path else unknown
        close = difflib.get_close_matches(unknown, known, 1)
        return f"{key}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")
    if error.validator == "not":
        return f"{path}: does not apply to an entry of this kind; remove it"
    if error.absolute_path and error.absolute_path[-1] in MAY_BE_SECRET:
        return f"{path}: {MAY_BE_SECRET[error.absolute_path[-1]]}"
    if error.validator == "type" and error.validator_value == "string" and not isinstance(error.instance, list | dict):
        return _no_text(path, error.instance)
    return f"{path or 'top level'}: {error.message}"

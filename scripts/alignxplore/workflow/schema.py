"""Checks of documents against a JSON schema, with one-line errors that name the wrong key."""

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Raise a UserError that lists what is wrong with `document` under the schema.

    If the document is only a part of what the schema describes, `part` is the path to that part's schema.
    """
    raise_all(name, document_errors(document, schema_file, part))


def raise_all(name: str, errors: Iterable[str]) -> None:
    """Raise a UserError that lists these errors, if there are any."""
    found = list(dict.fromkeys(errors))
    if len(found) == 1:
        raise UserError(f"{name}: {found[0]}")
    if found:
        raise UserError("\n  ".join([f"{name}: {len(found)} mistakes", *found]))


def document_errors(document: Any, schema_file: Path, part: Sequence[str] = ()) -> Iterator[str]:
    """Yield what is wrong with `document` under the schema, or under the part of it at the path `part`."""
    if plain := list(_plain_errors(document, [])):
        yield from plain
        return
    schema = yaml.safe_load(schema_file.read_text(encoding="utf-8"))
    definitions = schema.get("$defs", {})
    for key in part:
        schema = schema[key]
    validator = jsonschema.Draft202012Validator({"$defs": definitions, **schema})
    for error in sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path))):
        yield from _described(jsonschema.exceptions.best_match([error]))


def unknown_name(key: str, value: str, names: Iterable[str]) -> Iterator[str]:
    """Yield a message that suggests a name, if `value` is not among `names`."""
    names = list(names)
    if value not in names:
        close = difflib.get_close_matches(value, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names) or 'none'}"
        yield f"{key}: no such name {value!r}{hint}"


def _plain_errors(value: Any, path: list[str]) -> Iterator[str]:
    """Yield keys that are not text and numbers that are not finite, which a schema cannot express."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            if isinstance(key, str):
                yield from _plain_errors(part, [*path, key])
            else:
                yield _no_text(".".join(path), key)
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _plain_errors(part, [*path, str(place)])
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{'.'.join(path)}: must be a finite number, not {value}"


def _no_text(path: str, value: Any) -> str:
    """The message about a value that YAML does not read as text."""
    written = json.dumps(value) if value is None or isinstance(value, bool | int | float) else str(value)
    return f"{path or 'top level'}: {written} is not of type 'string': write it in quotes"


def _described(error: jsonschema.ValidationError) -> Iterator[str]:
    path = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for unknown in sorted(set(error.instance) - set(known)):
            close = difflib.get_close_matches(unknown, known, 1)
            yield (
                f"{path}.{unknown}".removeprefix(".")
                + ": unknown key"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
    elif error.validator == "not":
        yield f"{path}: does not apply to an entry of this kind; remove it"
    elif error.absolute_path and error.absolute_path[-1] in MAY_BE_SECRET:
        yield f"{path}: {MAY_BE_SECRET[error.absolute_path[-1]]}"
    elif (
        error.validator == "type" and error.validator_value == "string" and not isinstance(error.instance, list | dict)
    ):
        yield _no_text(path, error.instance)
    else:
        yield f"{path or 'top level'}: {error.message}"

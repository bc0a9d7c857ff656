"""The leaves of a JSON schema, as paths in which * is any name or index."""

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, path: str = "") -> Iterator[str]:
    """Paths such as `models.*.dtype`; an object of unspecified keys, or an array of plain values, is a leaf itself."""
    root = schema if root is None else root
    if "$ref" in schema:
        *_, name = schema["$ref"].split("/")
        schema = {**root["$defs"][name], **schema}
    parts = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), Mapping):
        parts["*"] = schema["additionalProperties"]
    if isinstance(schema.get("items"), Mapping) and "properties" in schema["items"]:
        parts["*"] = schema["items"]
    if not parts:
        yield path
    for name, part in parts.items():
        yield from leaves(part, root, f"{path}.{name}" if path else name)

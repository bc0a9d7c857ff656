"""What failed requests and unusable replies say, and whether another attempt may succeed."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2


class BadReply(Exception):
    """A 200 response that is not a valid completion."""


class Unusable(Exception):
    """A reply without something that every reply must have: another prompt would do no better."""


class NoAnswer(Exception):
    """The reply to this prompt cannot be used, and that of another attempt could not either; the text says why."""


class EmptyReply(NoAnswer):
    """The reply has no text at all; another seed may give one."""


def is_temporary(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in (408, 409, 425) or error.response.status_code >= 500
    return isinstance(error, httpx2.RequestError | BadReply)


def is_rate_limit(error: httpx2.HTTPStatusError) -> bool:
    """Whether waiting helps; it does not if the account has no money left."""
    if error.response.status_code != 429:
        return False
    said = _said(error)
    return not (isinstance(said, dict) and said.get("code") == "insufficient_quota")


def retry_after(error: httpx2.HTTPStatusError) -> float | None:
    """The seconds that Retry-After asks to wait for, stated as a number or as a date."""
    value = error.response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _said(error: httpx2.HTTPStatusError) -> Any:
    """What the server says about an error: a JSON value, or else text."""
    try:
        body = error.response.json()
    except ValueError:
        return error.response.text.strip()
    return body.get("error", body) if isinstance(body, dict) else body


def _code_and_message(error: httpx2.HTTPStatusError) -> tuple[str, str]:
    """The server's own code, if it is a word, and message."""
    body = _said(error)
    if not isinstance(body, dict):
        return "", str(body or error.response.reason_phrase)
    code = next((str(body[key]) for key in ("code", "type") if re.search("[a-z]", str(body.get(key) or ""))), "")
    message = body.get("message") or body.get("detail") or str(body)
    if isinstance(message, list):  # FastAPI's; its entries also repeat the input
        message = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in message)
    return code, f"{message} (param {body['param']})" if body.get("param") else str(message)


def detail(error: BaseException) -> str:
    """What the server or the connection says about an error, in one line."""
    if isinstance(error, httpx2.HTTPStatusError):
        code, message = _code_and_message(error)
        return one_line(f"{error.response.status_code}{f' {code}' if code else ''}: {message}")
    if isinstance(error, httpx2.RequestError):
        return one_line(f"Connection error: {error or type(error).__name__}")
    return one_line(str(error))


def reason(error: BaseException) -> str:
    """Why a prompt is refused: the same words for all prompts of a kind, so without numbers, ids and quotations."""
    text = re.sub(r"""(?<!\w)(["'`]).*?\1(?!\w)""", "…", detail(error))
    status = re.match(r"\d{3}(?=\W)|", text)[0]  # type: ignore[index]
    return (status + re.sub(r"\S*\d\S*", "…", text[len(status) :]))[:120].strip()


def one_line(text: str) -> str:
    return " ".join(text.split())[:500]

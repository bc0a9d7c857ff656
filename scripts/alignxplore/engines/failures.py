"""What failed requests and unusable replies say, and whether another attempt may succeed."""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import openai


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
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 425) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | BadReply)


def is_rate_limit(error: openai.APIStatusError) -> bool:
    """Whether waiting helps; it does not if the account has no money left."""
    return error.status_code == 429 and error.code != "insufficient_quota"


def retry_after(error: openai.APIStatusError) -> float | None:
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


def _code_and_message(error: openai.APIStatusError) -> tuple[str, str]:
    """The server's own code, if it is a word, and message."""
    body = error.body
    if not isinstance(body, dict):
        return "", str(body or error.message)
    code = next((str(body[key]) for key in ("code", "type") if re.search("[a-z]", str(body.get(key) or ""))), "")
    message = body.get("message") or body.get("detail") or str(body)
    if isinstance(message, list):  # FastAPI's; its entries also repeat the input
        message = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in message)
    return code, f"{message} (param {body['param']})" if body.get("param") else str(message)


def detail(error: BaseException) -> str:
    """What the server or the connection says about an error, in one line."""
    if isinstance(error, openai.APIStatusError):
        code, message = _code_and_message(error)
        return one_line(f"{error.status_code}{f' {code}' if code else ''}: {message}")
    return one_line(f"{error}{f' ({error.__cause__})' if error.__cause__ else ''}")


def reason(error: BaseException) -> str:
    """Why a prompt is refused: the same words for all prompts of a kind, so without numbers, ids and quotations."""
    text = re.sub(r"""(?<!\w)(["'`]).*?\1(?!\w)""", "…", detail(error))
    status = re.match(r"\d{3}(?=\W)|", text)[0]  # type: ignore[index]
    return (status + re.sub(r"\S*\d\S*", "…", text[len(status) :]))[:120].strip()


def one_line(text: str) -> str:
    return " ".join(text.split())[:500]

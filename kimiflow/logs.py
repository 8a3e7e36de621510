"""Logging: events are names, facts are key-value pairs, and secrets are struck out of both.

kimiflow logs to the standard library's logger ``kimiflow``, so an application that uses it decides what becomes of the
lines. The command line sends them to stderr.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final, cast

import structlog

from kimiflow.redaction import REDACTED, without_tokens
from kimiflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import FilteringBoundLogger

__all__ = ["configure", "get_logger", "redact"]

_TELLING_KEY: Final = re.compile(
    r"token$|secret|password|passwd|device_code|authorization$|api_key|^key$|cookie|credential", re.IGNORECASE
)
_TELLING_VALUE: Final = re.compile(
    r"""
      (?P<bearer>\bBearer\s+)[A-Za-z0-9._~+/=-]+                      # an Authorization header
    | (?P<field>\b(?:access_token|refresh_token|device_code|client_secret|password)["']?\s*[=:]\s*["']?)[^\s"'&,}]+
    | (?P<userinfo>://[^/\s:@]*:)[^/\s]+(?=@)                         # a URL's password
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?  # a JWT
    """,
    re.VERBOSE | re.IGNORECASE,
)


def _struck_out(match: re.Match[str]) -> str:
    return next((g for g in match.groups() if g is not None), "") + REDACTED


def _clean(value: object) -> object:
    if isinstance(value, Secret):
        return REDACTED
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return _TELLING_VALUE.sub(_struck_out, value)
    if isinstance(value, dict):
        return {k: REDACTED if _tells(k, v) else _clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item) for item in value]
    if isinstance(value, BaseException):
        return _clean(f"{type(value).__name__}: {value}")
    return value


def _tells(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, (str, bytes)) and bool(_TELLING_KEY.search(key))


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that strikes out what looks like a secret, by its key or by its shape.

    The last line of defence: nothing in kimiflow logs a secret on purpose.
    """
    for key, value in event.items():
        event[key] = REDACTED if _tells(key, value) else _clean(value)
    if isinstance(trace := event.get("exception"), str):
        # Words of somebody else, and of whom, nobody knows.
        event["exception"] = without_tokens(trace)
    return event


_SHARED: Final[list[structlog.typing.Processor]] = [
    structlog.stdlib.filter_by_level,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    redact,
]


def get_logger(**facts: object) -> FilteringBoundLogger:
    """The logger of kimiflow, with ``facts`` bound to each of its lines."""
    logger = structlog.wrap_logger(
        logging.getLogger("kimiflow"),
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("FilteringBoundLogger", logger.bind(**facts))


def configure(level: str, log_format: str) -> None:
    """Sends the log to stderr, as lines for a person or as JSON.

    :param level: ``debug``, ``info``, ``warning`` or ``error``.
    :param log_format: ``console`` or ``json``.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and _colour_wanted())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, renderer],
            foreign_pre_chain=_SHARED[1:],
        )
    )
    logger = logging.getLogger("kimiflow")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _colour_wanted() -> bool:
    return not os.environ.get("NO_COLOR")

"""Chat completions in OpenAI's shapes, whole or as server-sent events. The model repeats what it was told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kimiflow.sandbox.effects import Delivery, json_delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["InvalidBody", "complete"]


class InvalidBody(ValueError):
    """The body is no request for a completion; the message says why."""


def complete(body: bytes, completion_id: str, now: float, stream_pause: float) -> Delivery:
    """The reply to a request body. :raises InvalidBody: where it asks for nothing."""
    asked = _parse(body)
    text = f"You said: {_last_words(asked['messages'])}"
    about = {"id": completion_id, "created": int(now), "model": str(asked.get("model"))}
    words = len(text.split())
    usage = {"prompt_tokens": len(body) // 4, "completion_tokens": words, "total_tokens": len(body) // 4 + words}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return json_delivery(200, {**about, "object": "chat.completion", "choices": [choice], "usage": usage})
    options = asked.get("stream_options")
    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    pieces = tuple(
        f"data: {json.dumps({**about, 'object': 'chat.completion.chunk', **chunk})}\n\n".encode()
        for chunk in _chunks(text, usage if with_usage else None)
    )
    headers = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))
    return replace(Delivery(200, headers), pieces=(*pieces, b"data: [DONE]\n\n"), pause=stream_pause)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError:
        raise InvalidBody("the body has to be JSON") from None
    if not isinstance(asked, dict) or not isinstance(asked.get("messages"), list) or not asked["messages"]:
        raise InvalidBody("messages has to be a list with something in it")
    if not isinstance(asked.get("model"), str):
        raise InvalidBody("model is missing")
    return asked


def _last_words(messages: list[Any]) -> str:
    last = messages[-1]
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _chunks(text: str, usage: dict[str, int] | None) -> Iterator[dict[str, Any]]:
    def choice(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield choice({"role": "assistant", "content": ""})
    words = text.split(" ")
    for i, word in enumerate(words):
        yield choice({"content": word if i == len(words) - 1 else f"{word} "})
    yield choice({}, "stop")
    if usage is not None:
        yield {"choices": [], "usage": usage}

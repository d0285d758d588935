"""Streamed chat requests to an OpenAI-compatible server, timed as its user sees them.

Whatever a server does to a request is a Result; nothing of it is raised.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from types import TracebackType

    from slipstream.benchmark.serve.workloads import Message

CONNECT_S = 10.0
_MAX_ERROR_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server under load.

    Attributes:
        url: Of the server, with or without `/v1`.
        model: Asked for; None takes the first of `/v1/models`.
        api_key: Sent as a bearer token where given.
        timeout_s: Longest time a request may take in all.
        ignore_eos: Ask for exactly `max_tokens` tokens, which not every server knows.

    Raises:
        InvalidRequestError: the URL is none, or the timeout is not above 0.
    """

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0
    ignore_eos: bool = True

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            message = f"{self.url!r} is no URL of a server; give one like http://127.0.0.1:1234"
            raise InvalidRequestError(message, param="url")
        if not self.timeout_s > 0:
            message = f"timeout_s is {self.timeout_s}; it must be above 0"
            raise InvalidRequestError(message, param="timeout_s")

    @property
    def base_url(self) -> str:
        """The URL with `/v1` and without a slash at the end."""
        url = self.url.rstrip("/")
        return url if url.endswith("/v1") else url + "/v1"


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of one request. Times are of time.perf_counter().

    Attributes:
        label: Of its conversation.
        turn: Which one of the conversation, from 0.
        sent_s: When it was sent.
        ended_s: When its answer was complete, or failed.
        chunk_s: When each piece of text came.
        text: The answer.
        num_output_tokens: By the server's usage if it told one, else as many as pieces of text.
        from_usage: Whether the server told usage.
        num_prompt_tokens: None if the server did not tell.
        num_cached_tokens: Of those, found in a cache; None if it did not tell.
        finish_reason: None if none came.
        error: What kind of failure, None for a complete answer: `connect`, `timeout`, `disconnect`, `http 503`,
            `bad answer`, `error event`, `truncated` (no end came), or `ended` where we ended it ourselves.
        detail: Of the error.
    """

    label: str
    turn: int = 0
    sent_s: float = 0.0
    ended_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    text: str = ""
    num_output_tokens: int = 0
    from_usage: bool = False
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    finish_reason: str | None = None
    error: str | None = None
    detail: str = ""

    @property
    def ttft_s(self) -> float | None:
        """Time to the first piece of text."""
        return self.chunk_s[0] - self.sent_s if self.chunk_s else None

    @property
    def itl_s(self) -> list[float]:
        """Times between pieces of text, which hold several tokens where a server speculates."""
        return [b - a for a, b in zip(self.chunk_s, self.chunk_s[1:], strict=False)]

    @property
    def tpot_s(self) -> float | None:
        """Mean time for each token after the first."""
        if len(self.chunk_s) < 2 or self.num_output_tokens < 2:
            return None
        return (self.chunk_s[-1] - self.chunk_s[0]) / (self.num_output_tokens - 1)


class _FailedError(Exception):
    """The answer is no good, of a `kind` as in Result.error."""

    kind = ""

    def __init__(self, detail: str) -> None:
        super().__init__(detail[:_MAX_ERROR_CHARS])


class _StatusError(_FailedError):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.kind = f"http {status}"


class _BadAnswerError(_FailedError):
    kind = "bad answer"


class _EventError(_FailedError):
    kind = "error event"


class _TruncatedError(_FailedError):
    kind = "truncated"


class Client:
    """Sends requests to one server, any number at once."""

    def __init__(self, target: Target) -> None:
        headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            verify=target.url.startswith("https:"),  # a TLS context takes half a second to make
            trust_env=False,  # a proxy would be measured, too
        )
        self.target = target
        self.model = target.model

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def find_model(self) -> str:
        """Return the model that is asked for, by `/v1/models` if none was given.

        Raises:
            InvalidRequestError: the server does not answer, or names no model.
        """
        if self.model is None:
            url = f"{self.target.base_url}/models"
            try:
                answer = await self._http.get(url, timeout=CONNECT_S)
                answer.raise_for_status()
                self.model = str(answer.json()["data"][0]["id"])
            except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
                why = str(error) or type(error).__name__
                message = f"{url} names no model: {why}; is a server running there? --model names one without asking"
                raise InvalidRequestError(message, param="url") from error
        return self.model

    async def chat(
        self,
        messages: list[Message],
        *,
        result: Result,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> Result:
        """Send a chat and read its answer to the end.

        Args:
            messages: The conversation so far.
            result: Is filled while the answer comes, and returned.
            max_tokens: Of the answer.
            temperature: Of the sampling; the other parameters are sent, too, so that servers' defaults do not matter.
            seed: Of the sampling.
        """
        body: dict[str, Any] = {
            "model": await self.find_model(),
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": 0.95,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.target.ignore_eos:
            body.update(ignore_eos=True, top_k=40, min_p=0.05)
        result.sent_s = time.perf_counter()
        try:
            async with asyncio.timeout(self.target.timeout_s):
                await self._read(body, result)
        except TimeoutError:
            result.error = "timeout"
            result.detail = f"no complete answer within {self.target.timeout_s:g} s"
        except _FailedError as error:
            result.error, result.detail = error.kind, str(error)
        except httpx2.ConnectError as error:
            result.error, result.detail = "connect", str(error)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            result.error, result.detail = "disconnect", str(error) or type(error).__name__
        except asyncio.CancelledError:
            result.error = "ended"
            raise
        finally:
            result.ended_s = time.perf_counter()
            if not result.from_usage:
                result.num_output_tokens = len(result.chunk_s)
        return result

    async def _read(self, body: dict[str, Any], result: Result) -> None:
        url = f"{self.target.base_url}/chat/completions"
        async with self._http.stream("POST", url, json=body) as response:
            if response.status_code != httpx2.codes.OK:
                detail = (await response.aread()).decode("utf-8", "replace")
                raise _StatusError(response.status_code, detail)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue  # comments, other fields, blank lines
                data = line[5:].strip()
                if data == "[DONE]":
                    break
                try:
                    add_event(json.loads(data), result)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise _BadAnswerError(data) from error
        if result.finish_reason is None:
            message = f"the stream ended after {len(result.chunk_s)} pieces without a finish_reason"
            raise _TruncatedError(message)


def add_event(event: dict[str, Any], result: Result) -> None:
    """Note one event of a stream in `result`.

    Raises:
        _EventError: it tells of an error.
        ValueError, LookupError, TypeError, AttributeError: it is no chunk of a chat.
    """
    if event.get("error"):
        raise _EventError(json.dumps(event["error"]))
    usage = event.get("usage")
    if usage:
        result.num_output_tokens = int(usage["completion_tokens"])
        result.from_usage = True
        result.num_prompt_tokens = int(usage["prompt_tokens"])
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        result.num_cached_tokens = None if cached is None else int(cached)
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        piece = delta.get("content") or ""
        if piece or delta.get("reasoning_content") or delta.get("reasoning"):
            result.chunk_s.append(time.perf_counter())
            result.text += piece
        result.finish_reason = choice.get("finish_reason") or result.finish_reason

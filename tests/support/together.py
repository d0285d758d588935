"""Requests that an engine gets at once, however slow the machine is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slipstream import LLM
    from slipstream.engine.request import Request


@contextmanager
def together(llm: LLM, num_requests: int) -> Iterator[None]:
    """Hold requests back until so many are there, then hand them all over between two steps."""
    core = llm._host._core
    submit, held = core.submit, []

    def hold(request: Request) -> None:
        held.append(request)
        if len(held) == num_requests:
            with core._changed:
                for one in held:
                    submit(one)

    core.submit = hold  # type: ignore[method-assign]
    try:
        yield
    finally:
        core.submit = submit  # type: ignore[method-assign]

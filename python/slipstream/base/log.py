"""Logging set-up: one handler, one format; modules use logging.getLogger(__name__)."""

from __future__ import annotations

import logging
import sys

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure(level: str = "info") -> None:
    """Send Slipstream's log to stderr.

    Args:
        level: debug, info, warning or error. Prompts and outputs are never logged above debug.

    Raises:
        ValueError: another level.
    """
    if level not in _LEVELS:
        message = f"log level {level!r} is not one of {', '.join(_LEVELS)}"
        raise ValueError(message)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger("slipstream")
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    root.propagate = False

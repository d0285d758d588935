"""Logging set-up: one handler, one format; modules use logging.getLogger(__name__)."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

from slipstream.base.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_FILE_BYTES = 10 << 20
_NUM_OLD_FILES = 2


def configure(level: str = "info", file: Path | None = None) -> None:
    """Send Slipstream's log to stderr or a file.

    Args:
        level: debug, info, warning or error. Prompts and outputs are never logged above debug.
        file: Instead of stderr; put aside at 10 MiB, two older ones are kept.

    Raises:
        ValueError: another level.
        StoreError: the file cannot be written.
    """
    if level not in _LEVELS:
        message = f"log level {level!r} is not one of {', '.join(_LEVELS)}"
        raise ValueError(message)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    time_format = "%H:%M:%S"
    if file is not None:
        handler, time_format = _file_handler(file), "%Y-%m-%d %H:%M:%S"
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", time_format)
    )
    root = logging.getLogger("slipstream")
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    root.propagate = False


def _file_handler(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return RotatingFileHandler(
            file, maxBytes=_FILE_BYTES, backupCount=_NUM_OLD_FILES, encoding="utf-8"
        )
    except OSError as error:
        message = f"the log cannot be written to {file}: {error.strerror or error}"
        raise StoreError(message) from error

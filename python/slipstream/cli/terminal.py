"""What the commands share about terminals: a line of progress, and output that cannot take one over."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

_CLEAR_LINE = "\r\033[K"
# What a terminal would obey rather than show: a model's output must not move the cursor or rename the window.
_CONTROL = dict.fromkeys(
    code for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\t\n"
)


def show_line(text: str) -> None:
    """Rewrite the line of progress on stderr, "" to clear it; where no terminal is watching, do nothing."""
    if sys.stderr.isatty():
        sys.stderr.write(_CLEAR_LINE + text)
        sys.stderr.flush()


def show_load(name: str, fraction: float) -> None:
    """Show how far a model is loaded, nothing at the end.

    Args:
        name: Of the model.
        fraction: Of the load that is done, 0 to 1.
    """
    show_line("" if fraction >= 1 else f"loading {name} {fraction:.0%}")


def writer(out: TextIO) -> Callable[[str], None]:
    """Return what writes text at once, without control characters where `out` is a terminal."""
    terminal = out.isatty()

    def write(text: str) -> None:
        out.write(text.translate(_CONTROL) if terminal else text)
        out.flush()

    return write

"""What the commands share about terminals: a line of progress, and output that cannot take one over."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_CLEAR_LINE = "\r\033[K"
_DIM, _PLAIN = "\033[2m", "\033[0m"
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


def thought_writer(out: TextIO) -> Callable[..., None]:
    """Return what shows reasoning dimmed and apart from the answer, on a terminal; elsewhere it shows nothing.

    What is returned takes a piece of reasoning, which may be empty, and `is_over` once the answer goes on without.
    """
    write = writer(out)
    is_open = False

    def think(piece: str, *, is_over: bool = False) -> None:
        nonlocal is_open
        if not out.isatty():
            return
        if piece:
            out.write("" if is_open else _DIM)
            is_open = True
            write(piece)
        if is_over and is_open:
            is_open = False
            out.write(f"{_PLAIN}\n\n")
            out.flush()

    return think


def print_json(value: Any) -> None:
    """Print structs, lists and dicts as indented JSON on stdout."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def size_text(num_bytes: int) -> str:
    """Return a size the way people read it: "4.68 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes} B"


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; "no" ends the command.

    Raises:
        InvalidRequestError: nobody is there to answer and `yes` is not given.
    """
    import typer

    if yes:
        return
    if not sys.stdin.isatty():
        from slipstream.base.errors import InvalidRequestError

        message = f"{question} Nobody can answer here; give --yes"
        raise InvalidRequestError(message)
    typer.confirm(question, abort=True, err=True)


def can_ask() -> bool:
    """Whether somebody can see a question and answer it."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def pick(question: str, count: int, default: int | None = None) -> int:
    """Ask for one of a numbered list that was shown. Returns its index, from 0.

    Args:
        question: Without a mark.
        count: Entries of the list, numbered from 1.
        default: Number taken for an empty answer; None asks again.
    """
    import typer

    while True:
        choice: int = typer.prompt(f"{question}, 1 to {count}", default=default, type=int, err=True)
        if 1 <= choice <= count:
            return choice - 1


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a head on stdout; long cells are folded where a terminal is watching."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table, soft_wrap=not sys.stdout.isatty(), highlight=False)

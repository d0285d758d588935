"""A bar of progress on stderr, shown while a terminal is watching."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Progress:
    """Shows what is running and how far it is; a context manager.

    Args:
        with_time_left: The figures are seconds that are expected; tell the time left rather than count them.
    """

    def __init__(self, *, with_time_left: bool = False) -> None:
        self._with_time_left = with_time_left

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        columns = (
            (TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
            if self._with_time_left
            else (MofNCompleteColumn(), TimeElapsedColumn())
        )

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *columns,
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._bar.add_task("warming up", total=None)
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def update(self, title: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done and what runs now."""
        self._bar.update(self._task, description=title, completed=done, total=total)

    def tell(self, text: str) -> None:
        """Print a line above the bar, on stderr, whether or not a terminal is watching."""
        self._bar.console.print(text, markup=False, highlight=False)


@contextmanager
def load_bar(name: str) -> Iterator[Callable[[float], None]]:
    """Give a function that shows how far the load of a model is, 0 to 1.

    Args:
        name: Of the model.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("loading {task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)

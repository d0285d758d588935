"""A bar of progress on stderr, shown while a terminal is watching."""

from __future__ import annotations

import sys


class Progress:
    """Shows what is running and how far it is; a context manager."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
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

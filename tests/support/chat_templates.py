"""The chat templates that come with llama.cpp's source."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@functools.cache
def _folder() -> Path:
    fetch = [sys.executable, str(_ROOT / "third_party" / "fetch_llama_cpp.py")]
    source = subprocess.run(fetch, check=True, capture_output=True, text=True).stdout.strip()
    return Path(source) / "models" / "templates"


def llama_cpp_template(name: str) -> str:
    """Return the text of a template, such as Qwen-QwQ-32B."""
    return (_folder() / f"{name}.jinja").read_text(encoding="utf-8")

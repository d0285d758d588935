"""Where things lie on disk. Everything a user's run writes is below SLIPSTREAM_HOME."""

from __future__ import annotations

import os
from pathlib import Path

DEMO_MODEL = "slipstream/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 1234


def home() -> Path:
    """Return SLIPSTREAM_HOME, ~/.slipstream by default. The folder need not exist."""
    return Path(os.environ.get("SLIPSTREAM_HOME") or "~/.slipstream").expanduser()


def models_folder() -> Path:
    """Return the folder of downloaded models, laid out as publisher/model/file.gguf."""
    return home() / "models"


def demo_model_path() -> Path:
    """Return where the demo model lies once `make run` or `make test` has brought it."""
    return models_folder() / DEMO_MODEL


def model_folders() -> list[Path]:
    """Return every folder models are looked for in: the models folder, then those of SLIPSTREAM_MODEL_FOLDERS."""
    extra = os.environ.get("SLIPSTREAM_MODEL_FOLDERS", "").split(os.pathsep)
    return [models_folder(), *(Path(folder).expanduser() for folder in extra if folder)]

"""C++ programs of the benchmarks, compiled when they are wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
FETCH = FOLDER.parent / "third_party" / "fetch_llama_cpp.py"


def compiled(name: str, folder: Path, *flags: str, ggml: Path | None = None) -> str:
    """Compile `name`.cpp into a folder; return the program.

    Args:
        name: Of the source beside this file, and of the program.
        folder: Where the program goes.
        flags: Further ones for the compiler.
        ggml: A build folder of ggml to link with, if it is wanted.
    """
    program = str(folder / name)
    command = [os.environ.get("CXX") or "c++", "-std=c++17", *flags, str(FOLDER / f"{name}.cpp")]
    if ggml is not None:
        llama = subprocess.check_output([sys.executable, str(FETCH)], text=True).strip()
        command += [f"-I{llama}/ggml/{part}" for part in ("include", "src")]
        command += [f"-I{FOLDER.parent / 'csrc'}"]
        libraries = [str(ggml / f"lib{part}.a") for part in ("ggml", "ggml-cpu", "ggml-base")]
        command += ["-Wl,--start-group", *libraries, "-Wl,--end-group", "-ldl", "-lm"]
    subprocess.run([*command, "-lpthread", "-o", program], check=True)
    return program

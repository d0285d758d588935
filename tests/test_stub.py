"""The committed stub of the native core is what the core says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STUB = Path(__file__).parent.parent / "python" / "slipstream" / "_core.pyi"


def test_stub_is_current(tmp_path: Path) -> None:
    fresh = tmp_path / "_core.pyi"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "nanobind.stubgen",
            "-q",
            "-m",
            "slipstream._core",
            "-o",
            str(fresh),
        ],
        check=True,
    )
    assert fresh.read_text(encoding="utf-8") == STUB.read_text(encoding="utf-8"), (
        "python/slipstream/_core.pyi is out of date: run `make stub`"
    )

"""Results with where they come from: machine, commit, build and settings. Measures nothing itself."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slipstream.benchmark.decode import DecodeResult, DecodeSettings
    from slipstream.native import Model

GIT_TIMEOUT_S = 5


def machine() -> dict[str, Any]:
    """Return what of this machine decides the numbers: CPU, cores, memory, system."""
    import psutil

    return {
        "cpu": cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cpu_name() -> str:
    """Return the CPU's own name, the architecture if it tells none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the commit of the checkout this package runs from, with -dirty where files differ; None outside one."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def provenance() -> dict[str, Any]:
    """Return what every published number carries beside it."""
    from slipstream.native import build_info

    return {
        "slipstream": version("slipstream"),
        "commit": commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "build": build_info(),
    }


def model_facts(model: Model) -> dict[str, Any]:
    """Return what a report says of the model that was measured."""
    return {
        "path": str(model.path),
        "description": model.description,
        "size_bytes": model.size_bytes,
        "num_params": model.n_params,
    }


def weight_types(model: Model) -> dict[str, dict[str, Any]]:
    """Return bytes and kernel of each type the model's matrices are stored in, most bytes first.

    The kernel is the instruction set of ours, or `upstream`. With `repack` ggml's own comes before for the types it
    re-arranges.
    """
    from slipstream.models.gguf import check_model_file
    from slipstream.native import build_info

    kernels = build_info()["kernels"]
    sizes: dict[str, int] = {}
    for tensor in check_model_file(model.path).tensors.values():
        if len(tensor.shape) > 1:
            sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + tensor.size_bytes
    return {
        name: {"bytes": size, "kernel": kernels.get(name, "upstream")}
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    }


def decode_report(
    model: Model, settings: DecodeSettings, results: Sequence[DecodeResult], threads: int
) -> dict[str, Any]:
    """Return a decode benchmark as JSON values.

    Args:
        model: What was measured.
        settings: What was asked for.
        results: From benchmark.decode.
        threads: That computed them.
    """
    return {
        "benchmark": "decode",
        **provenance(),
        "model": model_facts(model),
        "settings": {**asdict(settings), "threads": threads},
        "results": [
            {
                "test": result.test,
                "num_tokens": result.num_tokens,
                "tokens_per_s": asdict(result.tokens_per_s),
                "samples": list(result.samples),
            }
            for result in results
        ],
    }

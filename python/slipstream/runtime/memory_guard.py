"""Whether a load may take the memory it needs. Knows estimates and free memory, no models.

mode      memory that must stay free
off       none is looked at
relaxed   0
balanced  5 % of the machine
strict    15 % of the machine
custom    all loaded models together stay below a limit of the user's
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from slipstream.base.errors import InsufficientMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slipstream.models.memory_estimate import MemoryEstimate
    from slipstream.runtime.settings import ServerSettings

_KEPT_SHARE = {"relaxed": 0.0, "balanced": 0.05, "strict": 0.15}
_CGROUP = Path("/sys/fs/cgroup")


class MachineMemory(msgspec.Struct, frozen=True):
    """Memory of the machine, or of the container this process runs in.

    Attributes:
        total_bytes: All of it.
        free_bytes: What can be had without swapping, page cache included.
    """

    total_bytes: int
    free_bytes: int


def machine_memory() -> MachineMemory:
    """Ask the system."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    with suppress(OSError, ValueError):  # no cgroup v2, or no limit ("max")
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = (_CGROUP / "memory.stat").read_text(encoding="ascii").split()
        cache = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0
        total, free = min(total, limit), min(free, limit - used + cache)
    return MachineMemory(total, max(free, 0))


def check_memory(
    key: str,
    wanted: MemoryEstimate,
    loaded: Iterable[MemoryEstimate],
    pending: Iterable[MemoryEstimate],
    settings: ServerSettings,
    machine: MachineMemory,
) -> None:
    """Refuse a load that would take too much.

    Args:
        key: For the message.
        wanted: What it takes.
        loaded: Of the models that are loaded; their mapped weights count as free for the system, not for us.
        pending: Of the loads under way, which have not taken all of theirs yet.
        settings: The mode, and the user's limit.
        machine: What there is.

    Raises:
        InsufficientMemoryError: it is too much; the message has the figures and what to do.
    """
    mode = settings.guardrails
    if mode == "off":
        return
    held, coming = list(loaded), sum(one.host_bytes for one in pending)
    if mode == "custom":
        used = sum(one.host_bytes for one in held) + coming
        room, limit = settings.guardrail_bytes - used, "the limit of the settings leaves"
    else:
        mapped = sum(one.mapped_bytes for one in held)
        kept = int(machine.total_bytes * _KEPT_SHARE[mode])
        room, limit = machine.free_bytes - mapped - coming - kept, f"guardrails ({mode}) leave"
    if wanted.host_bytes > room:
        message = (
            f"{key} needs about {_gib(wanted.host_bytes)} with a context of {wanted.context_length} tokens, and "
            f"{limit} {_gib(max(room, 0))}; unload a model, ask for a shorter context, or load it with force"
        )
        raise InsufficientMemoryError(message)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.2f} GiB"

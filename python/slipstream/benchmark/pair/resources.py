"""Energy, memory and lost processor time of this process, where they can be read. Never estimated."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_THREADS = Path("/proc/self/task")
_PROCESSORS = Path("/proc/stat")
_STEAL = 8  # column of the line "cpu": ticks that a hypervisor gave to others, proc_stat(5)
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size


class EnergyMeter:
    """Joules of the processor packages, from the kernel's RAPL counters (powercap), which AMD has, too.

    Other programs of the machine are in them. Counters wrap round; one that does so twice between two looks cannot
    be told from one that does once, some 40 minutes at 100 W.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._counters = []
        for zone in sorted(root.glob("*-rapl:*")):
            if zone.name.count(":") != 1:
                continue  # a part of a package
            with suppress(OSError, ValueError):
                largest = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
                int((zone / "energy_uj").read_text(encoding="ascii"))
                self._counters.append((zone / "energy_uj", largest))

    @property
    def is_readable(self) -> bool:
        """Whether there is a counter this process may read."""
        return bool(self._counters)

    def read(self) -> list[int] | None:
        """Return the counters, for `joules_since`; None where there are none."""
        try:
            values = [int(path.read_text(encoding="ascii")) for path, _ in self._counters]
        except (OSError, ValueError):
            return None
        return values or None

    def joules_since(self, before: list[int] | None) -> float | None:
        """Return the joules since `read` gave `before`; None where they cannot be told."""
        now = self.read()
        if before is None or now is None:
            return None
        spent = 0
        for old, new, (_, largest) in zip(before, now, self._counters, strict=True):
            spent += new - old if new >= old else new - old + largest
        return spent / 1e6


def reset_peak_memory() -> None:
    """Start the peak anew where the kernel allows it."""
    with suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")


def peak_memory_bytes() -> int | None:
    """Return the largest resident set since the last reset, mapped weights included; None where it cannot be read."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def waited_s(threads: Path = _THREADS, processors: Path = _PROCESSORS) -> float | None:
    """Return the seconds that threads of this process were ready to run and had no processor, all of them added up.

    The kernel counts them (schedstat, second number), and what a hypervisor took from the machine is added. Unlike the
    load average this tells what others cost us: programs that only take what is left over (nice, the idle class) are
    in the load and take next to nothing. None where it cannot be read.
    """
    total_ns = 0
    try:
        for thread in threads.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                total_ns += int((thread / "schedstat").read_text(encoding="ascii").split()[1])
        ticks = int(processors.read_text(encoding="ascii").partition("\n")[0].split()[_STEAL])
    except (OSError, ValueError, IndexError):
        return None
    return total_ns / 1e9 + ticks / os.sysconf("SC_CLK_TCK")


def waited_since(before: float | None) -> float | None:
    """Return the seconds lost since `waited_s` gave `before`; None where that cannot be told.

    What a thread had waited goes with it when it ends, so this is a little too low then.
    """
    now = waited_s()
    return None if before is None or now is None else max(0.0, now - before)

"""A stand-in for EngineProcess: no process, loads end when the test says so."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from slipstream.base.types import ModelInstanceInfo
from slipstream.models.memory_estimate import MemoryEstimate
from slipstream.runtime.memory_guard import MachineMemory
from tests.support.engine_stats import some_stats

MIB = 1 << 20


class FakeClient:
    def __init__(self) -> None:
        self.silent = False
        self.num_requests = 0
        self.on_idle = lambda: None

    async def stats(self):
        if self.silent:
            await asyncio.get_running_loop().create_future()
        return some_stats()

    def finish(self) -> None:
        """The last request ends."""
        self.num_requests = 0
        self.on_idle()


class FakeEngine:
    """An EngineProcess whose load ends when the test says so, or at once."""

    started: ClassVar[list[FakeEngine]] = []
    at_once = False

    def __init__(self, name, path, config, on_lost):
        self.name, self.path, self.config, self.on_lost = name, path, config, on_lost
        self.is_alive = True
        self.client = FakeClient()
        self.info = ModelInstanceInfo(
            path=path,
            context_length=config.context_length or 4096,
            parallel=config.parallel,
            pid=4711,
        )
        self.is_terminated = self.is_killed = False
        self.hangs = False

    @classmethod
    async def start(cls, name, path, config, *, before, progress, on_lost, command):
        await before()
        engine = cls(name, path, config, on_lost)
        engine.loading = asyncio.get_running_loop().create_future()
        engine.progress = progress
        FakeEngine.started.append(engine)
        if FakeEngine.at_once:
            engine.loading.set_result(None)
        try:
            await engine.loading
        except BaseException:
            engine.kill()
            raise
        return engine

    async def terminate(self):
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        self.is_terminated, self.is_alive = True, False

    def kill(self):
        self.is_killed, self.is_alive = True, False

    def die(self):
        self.is_alive = False
        self.on_lost("was killed by SIGKILL")


class FakeClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def small(_instance) -> MemoryEstimate:
    """An estimate of 100 MiB for whatever it is."""
    return MemoryEstimate(
        weights_bytes=70 * MIB, kv_bytes=20 * MIB, compute_bytes=5 * MIB, process_bytes=5 * MIB
    )


def machine(free_mib: int = 4000, total_mib: int = 8000):
    """A machine with so much memory."""
    return lambda: MachineMemory(total_mib * MIB, free_mib * MIB)

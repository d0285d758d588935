"""When instances go: idle for too long, or to make room for another. Event loop only; ends them through the loader."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.runtime.instance import Instance
    from slipstream.runtime.instances import Instances
    from slipstream.runtime.loader import Loader
    from slipstream.runtime.settings import ServerSettings

_log = logging.getLogger(__name__)
_LOOK_S = 30.0  # settings may have changed


class Lifetimes:
    """Watches the use of instances with one timer.

    Args:
        instances: All there are.
        loader: Ends them.
        current: The settings of the moment.
        clock: Seconds, monotonic.

    Attributes:
        on_drop: Called with each instance that goes.
    """

    def __init__(
        self,
        instances: Instances,
        loader: Loader,
        current: Callable[[], ServerSettings],
        clock: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._loader = loader
        self._current = current
        self._clock = clock
        self.on_drop: Callable[[Instance], None] = lambda _: None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def watch(self, instance: Instance) -> None:
        """Follow the use of an instance that has just been loaded."""
        engine = instance.living_engine()
        if engine is not None:
            engine.client.on_idle = partial(self._end_of_use, instance)
            self._end_of_use(instance)

    def touch(self, instance: Instance) -> None:
        """Note that a request begins."""
        instance.last_used_s = self._clock()

    def drop(self, instance: Instance, why: str) -> asyncio.Task[None]:
        """Unload an instance, or cancel its load; its requests fail."""
        _log.info("%s: unloading, %s", instance.identifier, why)
        self._instances.remove(instance)
        instance.is_outdated = False
        self.on_drop(instance)
        return self._loader.end(instance)

    def make_room(self, newest: Instance) -> None:
        """Unload the other instances loaded on request; what works goes when it has done so."""
        for instance in self._instances:
            if instance is newest or not instance.is_jit or instance.is_pinned:
                continue
            if instance.is_busy:
                instance.is_outdated = True
            else:
                self.drop(instance, f"makes room for {newest.identifier}")

    def unload_idle(self) -> None:
        """Unload what was idle for too long. Called by the timer; tests call it after they moved the clock."""
        now_s = self._clock()
        for instance in self._instances:
            if instance.num_waiters:  # its load has ended, and a request is about to go on with it
                self.touch(instance)
            deadline_s = instance.idle_deadline(self._current().ttl_s)
            if deadline_s is not None and deadline_s <= now_s:
                why = "another one took its place" if instance.is_outdated else "idle for its TTL"
                self.drop(instance, why)
        self._arm()

    def close(self) -> None:
        """Unload nothing from here on. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _end_of_use(self, instance: Instance) -> None:
        self.touch(instance)
        self._arm()

    def _arm(self) -> None:
        """Set the timer to the next instance that may have been idle for too long by then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle = [one for one in self._instances if not one.is_pinned]
        if not idle or self._is_closed:
            return
        ttl_s, now_s = self._current().ttl_s, self._clock()
        deadlines = [deadline for one in idle if (deadline := one.idle_deadline(ttl_s)) is not None]
        delay_s = min([deadline - now_s for deadline in deadlines] + [_LOOK_S])
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(delay_s, 0.0), self.unload_idle)

"""Guardrails: what a load may take, by mode."""

import pytest

from slipstream.base.errors import InsufficientMemoryError
from slipstream.models.memory_estimate import MemoryEstimate
from slipstream.runtime.memory_guard import MachineMemory, check_memory, machine_memory
from slipstream.runtime.settings import ServerSettings

MIB = 1 << 20
MACHINE = MachineMemory(total_bytes=1000 * MIB, free_bytes=500 * MIB)


def estimate(mib, *, weights=0, is_mapped=True):
    return MemoryEstimate(
        weights_bytes=weights * MIB,
        kv_bytes=(mib - weights) * MIB,
        compute_bytes=0,
        process_bytes=0,
        is_mapped=is_mapped,
    )


def allows(mib, *, loaded=(), pending=(), **settings):
    try:
        check_memory("m", estimate(mib), loaded, pending, ServerSettings(**settings), MACHINE)
    except InsufficientMemoryError:
        return False
    return True


@pytest.mark.parametrize(
    ("mode", "most"), [("off", 10**6), ("relaxed", 500), ("balanced", 450), ("strict", 350)]
)
def test_each_mode_keeps_its_share_free(mode, most):
    assert allows(most, guardrails=mode)
    if mode != "off":
        assert not allows(most + 1, guardrails=mode)


def test_mapped_weights_and_loads_under_way_are_not_free():
    mapped, copied = estimate(200, weights=100), estimate(200, weights=100, is_mapped=False)
    assert allows(400, loaded=[mapped], guardrails="relaxed")
    assert not allows(401, loaded=[mapped], guardrails="relaxed")
    assert allows(500, loaded=[copied], guardrails="relaxed")  # the system counted it as used
    assert not allows(301, pending=[copied], guardrails="relaxed")


def test_a_limit_of_the_users_is_for_all_models_together():
    settings = {"guardrails": "custom", "guardrail_bytes": 300 * MIB}
    assert allows(100, loaded=[estimate(200)], **settings)
    assert not allows(101, loaded=[estimate(100)], pending=[estimate(100)], **settings)


def test_the_message_has_the_figures_and_what_to_do():
    with pytest.raises(InsufficientMemoryError, match=r"0\.59 GiB.*0\.44 GiB.*force"):
        check_memory("m", estimate(600), [], [], ServerSettings(), MACHINE)


def test_the_machine_tells_its_memory():
    memory = machine_memory()
    assert 0 < memory.free_bytes <= memory.total_bytes

"""What was loaded by hand when a server ended is loaded again by the next one."""

import json

import pytest

from slipstream.base.config import models_folder
from slipstream.runtime.kept_loads import KeptLoads
from slipstream.runtime.load_options import LoadOptions
from slipstream.runtime.model_manager import ModelManager, ServedModel
from tests.support.fake_engine import FakeClock, FakeEngine, machine, small
from tests.unit.runtime.test_model_lifetimes import A, B, engines, load, loaded, run, until

__all__ = ["engines"]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(engines, clock):
    def make(*models, memory=None):
        options = {"clock": clock, "estimates": small, "memory": memory or machine()}
        return ModelManager(models, kept=KeptLoads(), **options)

    return make


def path_of(key):
    return models_folder() / key / "model-Q4_0.gguf"


def kept():
    """Return what the file says, by identifier."""
    path = KeptLoads().path
    listed = json.loads(path.read_bytes()) if path.exists() else []
    return {entry["identifier"]: entry for entry in listed}


async def load_as(manager, name, identifier, **options):
    async for _ in manager.by_hand.load(name, LoadOptions(**options), identifier=identifier):
        pass


def test_the_next_server_loads_what_was_loaded_by_hand(make, engines):
    async def test():
        manager = make()
        await load_as(manager, A, "mine", config={"parallel": 3, "draft_model": B}, ttl_s=60)
        await load(manager, A)
        await manager.client(B)  # on request
        await manager.close()
        assert set(kept()) == {"mine", A}
        engines.clear()
        manager = make()
        manager.by_hand.take_over()
        await until(lambda: len(loaded(manager)) == 2)
        assert loaded(manager) == ["mine", A]
        assert engines[0].config.parallel == 3
        assert engines[0].config.draft_model.endswith("b/model-Q4_0.gguf")
        assert [status.ttl_s for status in manager.list()] == [60, None]
        assert not any(status.is_jit for status in manager.list())
        await manager.close()
        assert set(kept()) == {"mine", A}

    run(test())


def test_a_server_that_restores_nothing_remembers_it_for_the_next(make):
    async def test():
        manager = make()
        await load(manager, A)
        await load_as(manager, B, "mine")
        await manager.close()
        manager = make()
        manager.by_hand.take_over(restore=False)
        assert await load(manager, A) == A  # not a second one beside that of the last server
        assert loaded(manager) == [A]
        await manager.close()
        assert set(kept()) == {A, "mine"}

    run(test())


def test_what_is_unloaded_is_forgotten(make, clock):
    async def test():
        manager = make()
        await load_as(manager, A, "first")
        await load_as(manager, A, "second", ttl_s=60)
        await load_as(manager, A, "third")
        await manager.unload("first")
        clock.now_s += 61
        manager.unload_idle()
        await manager.close()
        assert set(kept()) == {"third"}

    run(test())


def test_models_of_the_command_line_are_not_kept(make, engines):
    async def test():
        manager = make(ServedModel(key="mine", path=path_of(A)))
        await manager.load_all()
        await manager.unload("mine")
        assert await load(manager, "mine") == "mine"
        await manager.close()
        assert kept() == {}

    run(test())


def test_a_load_that_fails_or_is_there_already_hinders_no_other(make, engines, monkeypatch):
    async def test():
        manager = make()
        for name, identifier in ((A, "gone"), (B, "asked-for"), (B, "last")):
            await load_as(manager, name, identifier)
        await manager.close()
        path_of(A).unlink()
        manager = make()
        # A request is faster than the restoring: its instance becomes the one that was loaded by hand.
        manager.by_hand.take_over()
        await load_as(manager, B, "asked-for")
        await until(lambda: set(loaded(manager)) == {"asked-for", "last"})
        await manager.close()
        assert set(kept()) == {"asked-for", "last"}

    run(test())


def test_a_load_that_may_work_another_time_is_kept(make, engines, caplog):
    async def test():
        manager = make()
        await load_as(manager, A, "mine")
        await manager.close()
        manager = make(memory=machine(free_mib=1, total_mib=1))  # others hold it just now
        manager.by_hand.take_over()
        await until(lambda: "is not loaded again" in caplog.text)
        await manager.close()
        assert set(kept()) == {"mine"}

    run(test())


def test_what_the_last_server_had_is_forgotten_when_it_is_unloaded_whoever_loaded_it(make):
    async def test():
        manager = make()
        await load(manager, A)
        await manager.close()
        manager = make()
        manager.by_hand.take_over(restore=False)
        await manager.client(A)  # on request
        await manager.unload(A)
        await manager.close()
        assert kept() == {}

    run(test())


def test_a_server_that_ends_while_it_restores_keeps_the_rest(make, engines, monkeypatch):
    async def test():
        manager = make()
        await load_as(manager, A, "first")
        await load_as(manager, B, "second")
        await manager.close()
        monkeypatch.setattr(FakeEngine, "at_once", False)
        engines.clear()
        manager = make()
        manager.by_hand.take_over()
        await until(lambda: engines)
        await manager.close()
        assert set(kept()) == {"first", "second"}

    run(test())


@pytest.mark.parametrize("text", ["{", '[{"identifier": 7}]', "\0"])
def test_a_file_that_cannot_be_used_is_put_aside_and_told(make, caplog, text):
    async def test():
        path = KeptLoads().path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        manager = make()
        manager.by_hand.take_over()
        assert "cannot be used" in caplog.text
        assert len(list(path.parent.glob("loaded.json.damaged-*"))) == 1
        await load(manager, A)
        await manager.close()
        assert set(kept()) == {A}

    run(test())


def test_a_disk_that_takes_nothing_costs_no_load(make, caplog):
    async def test():
        KeptLoads().path.mkdir(parents=True)  # no file can be put there
        manager = make()
        assert await load(manager, A) == A
        await manager.close()
        assert "will not load the same models" in caplog.text

    run(test())

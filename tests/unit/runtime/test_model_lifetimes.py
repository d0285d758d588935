"""Loading on request, idle times, making room, guardrails: policies of the manager over a store and fake engines."""

import asyncio

import pytest

from slipstream.base.config import models_folder
from slipstream.base.errors import (
    ClosedError,
    InsufficientMemoryError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
)
from slipstream.base.load_config import LoadConfig
from slipstream.runtime import loader
from slipstream.runtime.load_options import LoadOptions, ModelDefaults, make_config
from slipstream.runtime.model_manager import ModelManager, ServedModel
from slipstream.runtime.settings import ServerSettings
from tests.support.fake_engine import FakeClock, FakeEngine, machine, small
from tests.support.tiny_gguf import write_tiny_model

A, B, VECTORS = "acme/a", "acme/b", "acme/v"


def run(test):
    return asyncio.run(asyncio.wait_for(test, 20))


@pytest.fixture
def engines(monkeypatch):
    monkeypatch.setattr(FakeEngine, "started", [])
    monkeypatch.setattr(FakeEngine, "at_once", True)
    monkeypatch.setattr(loader, "EngineProcess", FakeEngine)
    for key, kind in ((A, "llama"), (B, "llama"), (VECTORS, "bert")):
        path = models_folder() / key / "model-Q4_0.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tiny_model(path, kind)
    return FakeEngine.started


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(engines, clock):
    def make(*models, memory=None, **settings):
        return ModelManager(
            models,
            current=lambda: ServerSettings(**settings),
            clock=clock,
            estimates=small,
            memory=memory or machine(),
        )

    return make


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def load(manager, name, **options):
    told = [told async for told in manager.by_hand.load(name, LoadOptions(**options))]
    return told[-1][0]


def loaded(manager):
    return [status.key for status in manager.list() if status.info is not None]


def test_a_request_loads_what_it_names_and_others_share_the_load(make, engines):
    async def test():
        manager = make()
        names = (A, "A", "acme/a@q4_0", A)
        clients = await asyncio.gather(*(manager.client(name) for name in names))
        assert len({id(client) for client in clients}) == len(engines) == 1
        assert loaded(manager) == [A]
        assert await manager.resolve("ACME/A-GGUF") == A

    run(test())


def test_with_loading_on_request_off_nothing_is_loaded(make, engines):
    async def test():
        manager = make(jit=False)
        for ask in (manager.client, manager.resolve):
            with pytest.raises(ModelNotFoundError, match="loading on request is off"):
                await ask(A)
        assert engines == []
        await load(manager, A)
        await manager.client(A)
        engines[0].die()
        await manager.client(A)  # it was wanted, so a death does not end it
        assert len(engines) == 2
        await manager.unload(A)
        with pytest.raises(ModelNotFoundError):
            await manager.client(A)

    run(test())


def test_an_idle_model_goes_after_its_time_and_never_while_it_works(make, engines, clock):
    async def test():
        manager = make(ttl_s=60)
        client = await manager.client(A)
        clock.now_s += 59
        await manager.client(A)  # use starts the time again
        clock.now_s += 59
        manager.unload_idle()
        assert loaded(manager) == [A]
        client.num_requests = 1  # waiting in the queue or generating
        clock.now_s += 1000
        manager.unload_idle()
        assert loaded(manager) == [A]
        client.finish()
        clock.now_s += 59
        manager.unload_idle()
        assert loaded(manager) == [A]
        clock.now_s += 1
        manager.unload_idle()
        assert manager.list() == []
        await until(lambda: engines[0].is_terminated)

    run(test())


def test_the_timer_unloads_by_itself(make, engines):
    async def test():
        import time

        manager = make(ttl_s=0.01)
        manager._lifetimes._clock = time.monotonic
        await manager.client(A)
        await until(lambda: engines[0].is_terminated)
        assert manager.list() == []

    run(test())


def test_a_request_may_name_its_own_time_and_what_is_loaded_by_hand_stays(make, clock):
    async def test():
        manager = make(ttl_s=60)
        await load(manager, B)
        await load(manager, VECTORS, ttl_s=20)
        await manager.client(A, LoadOptions(ttl_s=10))
        clock.now_s += 10
        manager.unload_idle()
        assert loaded(manager) == [B, VECTORS]
        clock.now_s += 10
        manager.unload_idle()
        assert loaded(manager) == [B]
        clock.now_s += 1e6
        manager.unload_idle()
        assert loaded(manager) == [B]

    run(test())


def test_a_model_is_not_idle_while_somebody_waits_for_it(make, engines, clock):
    async def test():
        manager = make()
        await load(manager, A, ttl_s=1)
        instance = manager._instances.known(A)
        instance.num_waiters = 1  # its load has ended, the request goes on with it in a moment
        clock.now_s += 2
        manager.unload_idle()
        assert loaded(manager) == [A]
        instance.num_waiters = 0
        clock.now_s += 2
        manager.unload_idle()
        assert loaded(manager) == []

    run(test())


def test_the_layer_on_top_says_what_goes_to_the_gpu():
    config = make_config(LoadConfig(), {"gpu_ratio": 0.5}, {"gpu_layers": 7})
    assert (config.gpu_layers, config.gpu_ratio) == (7, None)
    config = make_config(LoadConfig(), {"gpu_layers": 7}, {"gpu_ratio": 0.5})
    assert config.gpu_ratio == 0.5


def test_new_settings_count_for_what_is_idle_already(make, clock):
    async def test():
        manager = make(ttl_s=None)
        await manager.client(A)
        clock.now_s += 100
        manager.unload_idle()
        assert loaded(manager) == [A]
        manager._current = lambda: ServerSettings(ttl_s=50)
        manager.unload_idle()
        assert loaded(manager) == []

    run(test())


def test_a_request_that_comes_while_its_model_is_unloaded_loads_it_again(make, engines, clock):
    async def test():
        manager = make(ttl_s=60)
        await manager.client(A)
        clock.now_s += 60
        manager.unload_idle()
        client = await manager.client(A)
        assert engines[0].is_terminated  # before the second one began
        assert client is engines[1].client

    run(test())


def test_models_loaded_on_request_make_room_for_each_other(make, engines):
    async def test():
        manager = make()
        await load(manager, B)
        await manager.client(A)
        await manager.client(VECTORS)
        assert loaded(manager) == [B, VECTORS]
        assert engines[1].is_terminated

    run(test())


def test_a_model_that_works_makes_room_when_it_has_done_so(make, engines, clock):
    async def test():
        manager = make()
        client = await manager.client(A)
        client.num_requests = 1
        await manager.client(B)
        clock.now_s += 100
        manager.unload_idle()
        assert loaded(manager) == [A, B]
        client.finish()
        clock.now_s += 1
        manager.unload_idle()
        assert loaded(manager) == [B]

    run(test())


def test_without_eviction_they_stay(make):
    async def test():
        manager = make(auto_evict=False)
        await manager.client(A)
        await manager.client(B)
        assert loaded(manager) == [A, B]

    run(test())


def test_two_loads_at_once_do_not_take_the_same_memory(make):
    async def test():
        manager = make(memory=machine(free_mib=150, total_mib=100), guardrails="relaxed")
        ends = await asyncio.gather(load(manager, A), load(manager, B), return_exceptions=True)
        (error,) = [end for end in ends if isinstance(end, Exception)]
        assert isinstance(error, InsufficientMemoryError)
        assert len(loaded(manager)) == 1

    run(test())


def test_a_load_that_is_given_up_leaves_nothing(make, engines, monkeypatch):
    async def test():
        monkeypatch.setattr(FakeEngine, "at_once", False)
        manager = make()
        task = asyncio.create_task(load(manager, A))
        await until(lambda: engines)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: engines[0].is_killed)
        assert manager.list() == []
        waiter = asyncio.create_task(manager.client(A))
        await until(lambda: len(engines) == 2)
        await manager.unload(A)
        with pytest.raises(ClosedError):
            await waiter
        assert manager.list() == []

    run(test())


def test_a_failed_load_on_request_is_forgotten_and_tried_again(make, engines, monkeypatch):
    async def test():
        monkeypatch.setattr(FakeEngine, "at_once", False)
        manager = make()
        waiter = asyncio.create_task(manager.client(A))
        await until(lambda: engines)
        engines[0].loading.set_exception(ModelLoadError("bad file"))
        with pytest.raises(ModelLoadError):
            await waiter
        assert manager.list() == []
        monkeypatch.setattr(FakeEngine, "at_once", True)
        await manager.client(A)

    run(test())


def test_more_context_loads_an_idle_model_again_unless_it_was_loaded_by_hand(make, engines):
    more = LoadOptions(config={"context_length": 9000})

    async def test():
        manager = make()
        await manager.client(A)
        await manager.client(A, LoadOptions(config={"context_length": 100}))
        assert len(engines) == 1
        client = await manager.client(A, more)
        assert engines[-1].info.context_length == 9000
        client.num_requests = 1
        with pytest.raises(InvalidRequestError, match="9000"):
            await manager.client(A, LoadOptions(config={"context_length": 10000}))
        await load(manager, B)
        with pytest.raises(InvalidRequestError) as caught:
            await manager.client(B, more)
        assert caught.value.param == "context_length"

    run(test())


def test_a_draft_model_is_a_key_of_the_store(make, engines):
    async def test():
        manager = make()
        await manager.client(A, LoadOptions(config={"draft_model": B}))
        assert engines[0].config.draft_model == str(models_folder() / B / "model-Q4_0.gguf")
        for name in ("/etc/passwd", "none"):
            with pytest.raises(ModelNotFoundError) as caught:
                await manager.client(A, LoadOptions(config={"draft_model": name}))
            assert caught.value.param == "draft_model"

    run(test())


def test_the_users_file_says_how_models_are_loaded(make, engines, slipstream_home):
    slipstream_home.mkdir(exist_ok=True)
    file = slipstream_home / "model-defaults.json"
    file.write_text('{"*": {"parallel": 2, "threads": 1}, "acme/a": {"parallel": 3}}')

    async def test():
        manager = make(auto_evict=False)
        await manager.client(A, LoadOptions(config={"threads": 4}))
        await manager.client(B)
        configs = [(engine.config.parallel, engine.config.threads) for engine in engines]
        assert configs == [(3, 4), (2, 1)]
        for text in (
            "{",
            '{"*": {"paralel": 2}}',
            '{"*": {"parallel": 0}}',
            '{"*": {"mmap": "x"}}',
        ):
            file.write_text(text)
            with pytest.raises(ModelLoadError, match=r"model-defaults\.json"):
                await load(manager, A)

    run(test())


def test_the_users_file_is_for_models_of_the_command_line_below_what_that_says(
    make, engines, slipstream_home
):
    file = slipstream_home / "model-defaults.json"
    path = models_folder() / A / "model-Q4_0.gguf"
    said = ServedModel(key="mine", path=path, config=LoadConfig(threads=4), options={"threads": 4})

    async def test():
        manager = make(said)
        file.write_text('{"*": {"parallel": 2, "threads": 1}, "acme/a": {"batch_size": 64}}')
        await manager.load_all()
        loaded = engines[0].config
        assert (loaded.parallel, loaded.threads, loaded.batch_size) == (2, 4, 64)
        file.write_text('{"mine": {"parallel": 5}}')  # read at each load
        engines[0].die()
        await manager.client("mine")
        assert (engines[1].config.parallel, engines[1].config.batch_size) == (5, 512)
        file.write_text("{")
        engines[1].die()
        with pytest.raises(ModelLoadError, match=r"model-defaults\.json"):
            await manager.client("mine")

    run(test())


def test_without_a_file_there_are_no_defaults(tmp_path):
    assert ModelDefaults(tmp_path / "none.json").config(A) == {}


def test_a_file_that_was_deleted_is_told_when_its_model_has_to_be_loaded_again(
    make, engines, monkeypatch
):
    async def test():
        manager = make()
        await manager.client(A)
        (models_folder() / A / "model-Q4_0.gguf").unlink()
        await manager.client(A)  # its pages are still there
        assert [model.key for model in await manager.models() if model.path == engines[0].path]

    run(test())


def test_a_model_of_the_command_line_is_found_by_its_name_in_the_store(make, engines):
    async def test():
        path = models_folder() / A / "model-Q4_0.gguf"
        manager = make(ServedModel(key="mine", path=path, config=LoadConfig(parallel=1)))
        await manager.load_all()
        assert await manager.resolve(A) == "mine"
        await manager.client(A)
        assert len(engines) == 1
        assert await load(manager, "mine") == "mine:2"
        await manager.unload("mine")
        assert loaded(manager) == ["mine:2"]
        assert await load(manager, "mine") == "mine"

    run(test())

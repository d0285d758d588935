"""Served models: names, loads on demand, one load for many waiters, deaths and the end."""

import asyncio
import time
from pathlib import Path

import pytest

from slipstream.base.errors import ClosedError, ModelLoadError, ModelNotFoundError
from slipstream.base.load_config import LoadConfig
from slipstream.runtime import loader, model_manager
from slipstream.runtime.model_manager import ModelManager, ModelState, ServedModel, served_models
from tests.support.engine_stats import some_stats
from tests.support.fake_engine import FakeEngine, machine, small


def run(test):
    return asyncio.run(asyncio.wait_for(test, 20))


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    FakeEngine.started = []
    monkeypatch.setattr(FakeEngine, "at_once", False)
    monkeypatch.setattr(loader, "EngineProcess", FakeEngine)
    return FakeEngine.started


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def manager(*keys):
    served = [
        ServedModel(key=key, path=Path(f"/models/{key}.gguf"), aliases=(f"{key}.gguf",))
        for key in keys or ("a", "b")
    ]
    return ModelManager(served, estimates=small, memory=machine())


async def loaded(models, engines, name):
    task = asyncio.create_task(models.client(name))
    count = len(engines)
    await until(lambda: len(engines) > count)
    engines[-1].loading.set_result(None)
    await task
    return engines[-1]


def test_keys_are_stems_and_made_distinct(tmp_path):
    names = []
    for folder, name in [("x", "m.gguf"), ("y", "m.gguf"), ("x", "big-00001-of-00003.gguf")]:
        file = tmp_path / folder / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        names.append(str(file))
    models = served_models(names, LoadConfig(parallel=2))
    assert [model.key for model in models] == ["m", "m:2", "big"]
    assert [str(model.path) for model in models] == names
    assert models[0].config.parallel == 2
    assert set(models[2].aliases) == {names[2], "big-00001-of-00003.gguf"}


def test_a_name_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError):
        served_models([str(tmp_path / "none.gguf")], LoadConfig())


def test_the_same_key_twice_is_a_mistake():
    with pytest.raises(ValueError, match="key 'a'"):
        manager("a", "a")


def test_names_resolve_to_keys_and_aliases_and_nothing_else():
    async def test():
        models = manager()
        assert await models.resolve("b") == await models.resolve("b.gguf") == "b"
        with pytest.raises(ModelNotFoundError, match="served models: a, b") as caught:
            await models.resolve("gpt-4o")
        assert caught.value.param == "model"
        with pytest.raises(ModelNotFoundError, match="no model"):
            await ModelManager([]).resolve("")

    run(test())


def test_no_name_means_the_first_loaded_model(engines):
    async def test():
        models = manager()
        assert await models.resolve("") == await models.resolve(None) == "a"
        await loaded(models, engines, "b")
        assert await models.resolve("") == "b"
        engines[0].is_alive = False
        assert await models.resolve(None) == "a"

    run(test())


def test_requests_at_the_same_time_share_one_load(engines):
    async def test():
        models = manager()
        tasks = [asyncio.create_task(models.client(name)) for name in ("a", "a.gguf", "", "a")]
        await until(lambda: engines)
        engines[0].progress(0.5)
        status = models.list()[0]
        assert (status.state, status.progress) == (ModelState.LOADING, 0.5)
        tasks.pop().cancel()  # one waiter leaves, the load goes on
        engines[0].loading.set_result(None)
        clients = await asyncio.gather(*tasks)
        assert {id(client) for client in clients} == {id(engines[0].client)}
        assert len(engines) == 1
        status = models.list()[0]
        assert (status.state, status.num_loads, status.progress) == (ModelState.LOADED, 1, 1.0)
        assert models.list()[1].state is ModelState.NOT_LOADED

    run(test())


def test_a_failed_load_reaches_every_waiter_and_the_next_request_tries_again(engines):
    async def test():
        models = manager()
        tasks = [asyncio.create_task(models.client("a")) for _ in range(3)]
        await until(lambda: engines)
        engines[0].loading.set_exception(ModelLoadError("bad file", path="/models/a.gguf"))
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, ModelLoadError)
        assert models.list()[0].last_error == "bad file"
        await loaded(models, engines, "a")
        assert len(engines) == 2
        assert models.list()[0].last_error is None

    run(test())


def test_a_dead_engine_is_replaced_by_the_next_request(engines):
    async def test():
        models = manager()
        first = await loaded(models, engines, "a")
        first.die()
        status = models.list()[0]
        assert (status.state, status.num_deaths) == (ModelState.NOT_LOADED, 1)
        second = await loaded(models, engines, "a")
        assert await models.client("a") is second.client
        first.on_lost("again")
        status = models.list()[0]
        assert (status.state, status.num_deaths, status.num_loads) == (ModelState.LOADED, 1, 2)

    run(test())


def test_load_all_reports_progress_by_key(engines):
    async def test():
        models, seen = manager(), []
        task = asyncio.create_task(models.load_all(lambda key, part: seen.append((key, part))))
        for count in (1, 2):
            await until(lambda count=count: len(engines) == count)
            engines[-1].progress(0.5)
            await until(lambda count=count: sum(part == 0.5 for _, part in seen) == count)
            engines[-1].loading.set_result(None)
        await task
        assert [(key, part) for key, part in seen if part == 0.5] == [("a", 0.5), ("b", 0.5)]
        assert [key for key, part in seen if part == 1.0] == ["a", "b"]

    run(test())


def test_stats_leave_out_engines_that_do_not_answer(engines, monkeypatch):
    async def test():
        models = manager()
        monkeypatch.setattr(model_manager, "_STATS_S", 0.01)
        await loaded(models, engines, "a")
        (await loaded(models, engines, "b")).client.silent = True
        assert await models.stats() == {"a": some_stats()}

    run(test())


def test_unload_ends_the_process_and_is_no_death(engines):
    async def test():
        models = manager()
        engine = await loaded(models, engines, "a")
        await models.unload("a")
        await models.unload("a")
        assert engine.is_terminated
        status = models.list()[0]
        assert (status.state, status.num_deaths) == (ModelState.NOT_LOADED, 0)

    run(test())


def test_close_cancels_loads_ends_engines_and_refuses_what_comes(engines):
    async def test():
        models = manager()
        engine = await loaded(models, engines, "a")
        waiter = asyncio.create_task(models.client("b"))
        await until(lambda: len(engines) == 2)
        await models.close()
        await models.close()
        assert engine.is_terminated
        assert engines[1].is_killed
        with pytest.raises(ClosedError):
            await waiter
        with pytest.raises(ClosedError):
            await models.client("a")

    run(test())


def test_close_is_bounded_when_an_engine_does_not_end(engines, monkeypatch):
    async def test():
        models = manager()
        monkeypatch.setattr(model_manager, "_CLOSE_S", 0.01)
        engine = await loaded(models, engines, "a")
        engine.hangs = True
        begin_s = time.monotonic()
        await models.close()
        assert time.monotonic() - begin_s < 5
        assert engine.is_killed

    run(test())

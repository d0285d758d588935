"""Real engine processes on a tiny model: answers, faults, and no process left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from slipstream.base.errors import (
    ClosedError,
    ContextLengthError,
    EngineDiedError,
    ModelLoadError,
    TemplateError,
)
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, GenerationSpec
from slipstream.runtime.engine_process import worker_command
from slipstream.runtime.generation import Generation, fan_out
from slipstream.runtime.model_manager import ModelManager, ModelState, ServedModel

pytestmark = pytest.mark.e2e

LIMIT_S = 60
CONFIG = LoadConfig(context_length=512, parallel=4, threads=1)


def run(test):
    return asyncio.run(asyncio.wait_for(test, LIMIT_S))


class Service:
    """A manager of one model and what routes use on top."""

    def __init__(self, path, config=CONFIG, **options):
        self.models = ModelManager([ServedModel(key="tiny", path=path, config=config)], **options)
        self.generation = Generation(self.models)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.models.close()
        assert engine_processes() == []

    @property
    def status(self):
        return self.models.list()[0]

    @property
    def pid(self):
        return self.status.info.pid

    def collect(self, **fields):
        return self.generation.collect("tiny", spec(**fields))


def engine_processes():
    return [
        process.pid
        for process in psutil.Process().children()  # not those of a server that other tests run
        if process.is_running() and "slipstream.runtime.worker" in process.cmdline()
    ]


def spec(request_id="r", prompt="abc", **fields):
    sampling = {"temperature": 0.0, "max_tokens": 8, **fields.pop("sampling", {})}
    if "messages" in fields or "prompt_token_ids" in fields:
        prompt = None
    sampling = SamplingParams(**sampling)
    return GenerationSpec(request_id=request_id, prompt=prompt, sampling=sampling, **fields)


def endless(request_id):
    """A request that runs until the context is full."""
    sampling = {"max_tokens": None, "ignore_eos": True}
    return spec(request_id, sampling=sampling)


@pytest.fixture(scope="module")
def tiny_file(tiny_path):
    return tiny_path("llama")


async def gone(pid):
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid):  # the watcher thread reaps it
        assert time.monotonic() < deadline, f"process {pid} is still there"
        await asyncio.sleep(0)


def test_prompts_of_every_form_are_answered(tiny_file):
    async def test():
        async with Service(tiny_file) as service:
            text = await service.collect(sampling={"ignore_eos": True})
            assert text.usage.num_output_tokens == len(text.token_ids) == 8
            again = await service.collect(sampling={"ignore_eos": True})
            assert again.text == text.text
            assert again.usage.num_cached_tokens > 0
            messages = [{"role": "user", "content": "hi"}]
            chat = await service.collect(messages=messages)
            assert chat.usage.num_prompt_tokens > 2
            ids = await service.collect(prompt_token_ids=[5, 6, 7], sampling={"logprobs": 2})
            assert len(ids.logprobs[0].top) == 2
            echo = await service.collect(echo_prompt=True, sampling={"max_tokens": 0})
            assert (echo.text, echo.finish_reason) == ("abc", FinishReason.LENGTH)
            assert service.status.info.architecture == "llama"
            assert (await service.models.stats())["tiny"].output_tokens_total > 16

    run(test())


def test_several_answers_run_side_by_side(tiny_file):
    async def test():
        async with Service(tiny_file) as service:
            specs = fan_out(spec(sampling={"temperature": 1.0, "seed": 3}), 6)
            results = await service.generation.collect_many("tiny", specs)
            assert len(results) == 6
            alone = await service.generation.collect("tiny", specs[2])
            assert alone.token_ids == results[2].token_ids

    run(test())


def test_what_cannot_be_done_is_a_typed_error(tiny_file):
    async def test():
        async with Service(tiny_file) as service:
            with pytest.raises(ContextLengthError) as caught:
                await service.collect(prompt="abcdefg " * 1000)
            assert caught.value.param == "prompt"
            with pytest.raises(TemplateError):
                await service.collect(messages=[{"content": "no role"}])
            await service.collect()

    run(test())


def test_leaving_a_stream_frees_its_sequence(tiny_file):
    async def test():
        async with Service(tiny_file) as service:
            async with await service.generation.stream("tiny", endless("r")) as stream:
                await anext(stream)
            client = await service.models.client("tiny")
            while client.num_requests:
                await asyncio.sleep(0)
            stats = await client.stats()
            assert (stats.num_running, stats.num_waiting) == (0, 0)

    run(test())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_killed_in_the_middle_every_request_hears_of_it_and_the_next_one_reloads(tiny_file, number):
    async def test():
        async with Service(tiny_file) as service:
            await service.collect()
            pid = service.pid
            os.kill(pid, signal.SIGSTOP)  # so that no request can end before
            starts = [
                asyncio.create_task(service.generation.stream("tiny", endless(f"r{i}")))
                for i in range(6)
            ]
            client = await service.models.client("tiny")
            while client.num_requests < 6:
                await asyncio.sleep(0)
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
            for error in await asyncio.gather(*starts, return_exceptions=True):
                if not isinstance(error, Exception):  # SIGABRT may come a step late
                    with pytest.raises(EngineDiedError) as caught:
                        [delta async for delta in error]
                    error = caught.value
                assert isinstance(error, EngineDiedError)
                assert signal.Signals(number).name in error.message
            assert service.status.state is ModelState.NOT_LOADED
            await service.collect()
            assert service.pid != pid
            assert (service.status.num_loads, service.status.num_deaths) == (2, 1)

    run(test())


def test_the_end_of_the_api_process_ends_the_engine(tiny_file):
    async def test():
        async with Service(tiny_file) as service:
            client = await service.models.client("tiny")
            pid = service.pid
            stream = client.submit([endless("r")])
            await anext(stream)
            client.close()  # what the kernel does to the sockets of a process that died
            await gone(pid)

    run(test())


def test_ctrl_c_does_not_reach_the_engine(tiny_file):
    async def test():
        async with Service(tiny_file) as service:
            await service.collect()
            os.kill(service.pid, signal.SIGINT)
            assert os.getsid(service.pid) == service.pid
            await service.collect()
            assert service.status.num_deaths == 0

    run(test())


def test_an_engine_that_does_not_stop_is_killed_in_time(tiny_file):
    async def test():
        service = Service(tiny_file)
        await service.collect()
        pid = service.pid
        os.kill(pid, signal.SIGSTOP)
        begin_s = time.monotonic()
        await service.models.close()
        assert time.monotonic() - begin_s < 5
        await gone(pid)

    run(test())


def test_close_in_the_middle_fails_what_runs(tiny_file):
    async def test():
        service = Service(tiny_file)
        stream = await service.generation.stream("tiny", endless("r"))
        await service.models.close()
        with pytest.raises((ClosedError, EngineDiedError)):
            [delta async for delta in stream]
        assert engine_processes() == []

    run(test())


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "random", "cut"])
def test_no_model_is_a_load_error_and_leaves_no_process(tiny_file, tmp_path, kind):
    path = tmp_path / "bad.gguf"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        whole = tiny_file.read_bytes()
        cut = whole[: len(whole) // 2]
        path.write_bytes({"empty": b"", "random": os.urandom(4096), "cut": cut}[kind])

    async def test():
        async with Service(path) as service:
            with pytest.raises(ModelLoadError, match=r"bad\.gguf") as caught:
                await service.collect()
            assert caught.value.path == str(path)
            assert engine_processes() == []
            path.rmdir() if kind == "folder" else path.unlink(missing_ok=True)
            path.write_bytes(tiny_file.read_bytes())
            await service.collect()  # the next request tries again

    run(test())


def test_a_template_that_does_not_parse_fails_the_load(tiny_file):
    async def test():
        config = LoadConfig(context_length=512, chat_template="{% if %}")
        async with Service(tiny_file, config) as service:
            with pytest.raises(TemplateError):
                await service.collect()

    run(test())


def test_a_process_that_dies_while_loading_tells_its_last_words(tiny_file):
    def command(fd, log_level):
        words = "x.c:1: GGML_ASSERT(a) failed"
        return [sys.executable, "-c", f"import os; os.write(2, b'{words}\\n'); os.abort()"]

    async def test():
        async with Service(tiny_file, command=command) as service:
            with pytest.raises(ModelLoadError, match=r"SIGABRT\): x\.c:1: GGML_ASSERT"):
                await service.collect()

    run(test())


@pytest.mark.parametrize("program", ["/no/such/program", "/bin/false"])
def test_failed_loads_leak_no_descriptors(tiny_file, program):
    async def test():
        async with Service(tiny_file, command=lambda fd, level: [program]) as service:
            num_fds = []
            for _ in range(4):
                with pytest.raises(ModelLoadError, match="engine process"):
                    await service.collect()
                await asyncio.sleep(0)  # closed sockets are taken off the loop
                num_fds.append(psutil.Process().num_fds())
            assert num_fds[-1] == num_fds[0]

    run(test())


def test_closing_during_a_load_ends_the_process(tiny_file):
    async def test():
        sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
        others = set(psutil.Process().children())
        service = Service(tiny_file, command=lambda fd, level: sleeper)
        waiter = asyncio.create_task(service.collect())
        while service.status.state is not ModelState.LOADING:
            await asyncio.sleep(0)
        while not (started := set(psutil.Process().children()) - others):
            await asyncio.sleep(0)
        pid = started.pop().pid
        await service.models.close()
        with pytest.raises(ClosedError):
            await waiter
        await gone(pid)

    run(test())


def test_the_engine_process_imports_no_web_framework():
    code = (
        "import sys, slipstream.runtime.worker, slipstream.engine.llama_runner, "
        "slipstream.chat.template\n"
        "names = {'granian', 'starlette', 'pydantic', 'numpy', 'rich', 'slipstream.server'}\n"
        "print(sorted(names & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_worker_without_its_socket_ends_with_an_error():
    done = subprocess.run(
        worker_command(999, 20), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 1
    assert "Bad file descriptor" in done.stderr

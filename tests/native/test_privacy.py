"""What a user sends is not logged above debug, also where native code writes it to stderr by itself."""

import asyncio
import logging
import os
import signal

import pytest

from slipstream.base.errors import EngineDiedError, GrammarError
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec
from slipstream.engine.llama_runner import LlamaRunner
from slipstream.runtime.generation import Generation
from slipstream.runtime.model_manager import ModelManager, ServedModel

SECRET = "xyzzy"
# Neither its own line nor those around it may pass for a line of ours or for the cause of a death.
GRAMMAR = f'root ::= "{SECRET} failed\nERROR {SECRET}: error:\n{SECRET} GGML_ASSERT'
CONFIG = LoadConfig(context_length=256, parallel=2, threads=1)
LIMIT_S = 60


def shown(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno > logging.DEBUG]


@pytest.mark.e2e
def test_a_bad_grammar_is_not_logged_by_the_server_even_when_its_engine_dies(tiny_path, caplog):
    sampling = SamplingParams(grammar=GRAMMAR, max_tokens=4)

    async def test():
        models = ModelManager([ServedModel(key="tiny", path=tiny_path("llama"), config=CONFIG)])
        generation = Generation(models)
        try:
            spec = GenerationSpec(request_id="r", prompt="abc", sampling=sampling)
            with pytest.raises(GrammarError):
                await generation.collect("tiny", spec)
            endless = SamplingParams(ignore_eos=True)
            spec = GenerationSpec(request_id="s", prompt="abc", sampling=endless)
            async with await generation.stream("tiny", [spec]) as stream:
                os.kill(models.list()[0].info.pid, signal.SIGSEGV)
                with pytest.raises(EngineDiedError, match="Segmentation fault") as caught:
                    [delta async for delta in stream]
            return caught.value.message
        finally:
            await models.close()

    with caplog.at_level(logging.DEBUG, "slipstream"):
        message = asyncio.run(asyncio.wait_for(test(), LIMIT_S))
    assert SECRET in caplog.text  # for who asks for debug
    assert [line for line in [*shown(caplog), message] if SECRET in line] == []


def test_native_log_lines_about_a_request_are_for_debugging(tiny_path, caplog):
    runner = LlamaRunner.load(str(tiny_path("llama")), CONFIG)
    with caplog.at_level(logging.DEBUG, "slipstream.llama"):
        with pytest.raises(GrammarError):
            runner.open_sequence(0, SamplingParams(grammar="root ::= nothing"), [5])
        runner.close()
    assert "grammar" in caplog.text
    assert shown(caplog) == []

"""What routes call: streams, whole answers, several at once, and errors as exceptions."""

import asyncio

import pytest

from slipstream.base.errors import (
    EngineDiedError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    SlipstreamError,
)
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import (
    FinishReason,
    GenerationSpec,
    OutputDelta,
    RequestFailed,
    TokenLogprob,
    Usage,
)
from slipstream.engine.event_stream import EventStream
from slipstream.runtime.generation import Generation, fan_out


class FakeClient:
    """Plays scripted events for each submit; None in a script means: nothing more comes."""

    def __init__(self, events):
        self.waiting = set()
        self.abandoned = set()
        self.specs = []
        self._events = events

    def submit(self, specs):
        self.specs = list(specs)
        self.stream = EventStream(self, [spec.request_id for spec in specs])
        for event in self._events:
            self.stream.push(event)
        return self.stream

    def abandon(self, request_ids):
        self.abandoned |= request_ids

    abandon_later = abandon


class FakeManager:
    def __init__(self, client):
        self._client = client

    async def resolve(self, name):
        if name == "unknown":
            raise ModelNotFoundError("served models: tiny")
        return "tiny"

    async def client(self, name, options):
        assert name == "tiny"
        return self._client


def run(test):
    return asyncio.run(asyncio.wait_for(test, 20))


def generation(*events):
    client = FakeClient(events)
    return Generation(FakeManager(client)), client


def spec(request_id="r", **fields):
    return GenerationSpec(request_id=request_id, prompt="x", **fields)


def delta(text, request_id="r", **fields):
    return OutputDelta(request_id, text, **fields)


def last(request_id="r", text=""):
    return delta(text, request_id, finish_reason=FinishReason.STOP, usage=Usage(3, 1, 2))


def test_a_stream_gives_deltas_with_the_index_of_their_spec():
    async def test():
        service, _ = generation(delta("1", "b"), last("a"), last("b", "2"))
        async with await service.stream("tiny", [spec("a"), spec("b")]) as stream:
            assert stream.model == "tiny"
            seen = [(index, event.text) async for index, event in stream]
        assert seen == [(1, "1"), (0, ""), (1, "2")]

    run(test())


def test_a_single_spec_needs_no_list():
    async def test():
        service, _ = generation(last(text="hi"))
        stream = await service.stream(None, spec())
        assert [(index, event.text) async for index, event in stream] == [(0, "hi")]

    run(test())


@pytest.mark.parametrize(
    ("error", "kind"),
    [("QueueFullError", QueueFullError), ("NoSuchError", SlipstreamError)],
)
def test_a_failure_before_the_first_delta_raises_at_once(error, kind):
    async def test():
        service, client = generation(RequestFailed("a", error, "no", "prompt"))
        with pytest.raises(kind, match="no") as caught:
            await service.stream("tiny", [spec("a"), spec("b")])
        assert caught.value.param == "prompt"
        assert client.abandoned == {"b"}

    run(test())


def test_a_failure_in_the_middle_raises_from_the_iteration_and_aborts_the_rest():
    async def test():
        service, client = generation(delta("1", "a"), RequestFailed("a", "EngineDiedError", "dead"))
        stream = await service.stream("tiny", [spec("a"), spec("b")])
        assert (await anext(stream))[1].text == "1"
        with pytest.raises(EngineDiedError, match="dead"):
            await anext(stream)
        assert client.abandoned == {"b"}

    run(test())


def test_leaving_a_stream_early_aborts():
    async def test():
        service, client = generation(delta("1"))
        async with await service.stream("tiny", spec()) as stream:
            async for _ in stream:
                break
        assert client.abandoned == {"r"}

    run(test())


def test_cancelling_before_the_first_delta_aborts():
    async def test():
        service, client = generation()
        task = asyncio.create_task(service.stream("tiny", spec()))
        while not client.waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.abandoned == {"r"}

    run(test())


def test_an_unknown_model_raises():
    async def test():
        service, _ = generation()
        with pytest.raises(ModelNotFoundError, match="tiny"):
            await service.collect("unknown", spec())

    run(test())


def test_collect_adds_up_text_tokens_and_logprobs():
    async def test():
        first = delta("he", token_ids=[1], logprobs=[TokenLogprob(1, b"he", -0.5)])
        second = delta("llo", token_ids=[2, 3], logprobs=[TokenLogprob(2, b"llo", -1.0)])
        service, _ = generation(first, second, last())
        result = await service.collect("tiny", spec())
        assert (result.text, result.token_ids) == ("hello", [1, 2, 3])
        assert [entry.token_id for entry in result.logprobs] == [1, 2]
        assert result.finish_reason is FinishReason.STOP
        assert result.usage == Usage(3, 1, 2)

    run(test())


def test_collect_many_keeps_the_order_of_the_specs():
    async def test():
        service, _ = generation(last("b", "B"), delta("a", "a"), last("a", "A"))
        results = await service.collect_many("tiny", [spec("a"), spec("b")])
        assert [result.text for result in results] == ["aA", "B"]
        assert results[0].logprobs is None

    run(test())


def test_no_prompt_at_all_is_refused():
    async def test():
        service, _ = generation()
        with pytest.raises(InvalidRequestError):
            await service.collect_many("tiny", [])

    run(test())


def test_fan_out_counts_ids_and_seeds():
    copies = fan_out(spec(sampling=SamplingParams(seed=2**64 - 1, top_k=3)), 3)
    assert [copy.request_id for copy in copies] == ["r-0", "r-1", "r-2"]
    assert [copy.sampling.seed for copy in copies] == [2**64 - 1, 0, 1]
    assert {copy.sampling.top_k for copy in copies} == {3}


def test_fan_out_leaves_one_alone_and_no_seed_stays_none():
    only = spec()
    assert fan_out(only, 1) == [only]
    assert [copy.sampling.seed for copy in fan_out(only, 2)] == [None, None]
    with pytest.raises(InvalidRequestError) as caught:
        fan_out(only, 0)
    assert caught.value.param == "n"

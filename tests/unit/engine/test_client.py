"""The client of an engine process, against a peer that says exactly what a test wants."""

import asyncio
import gc
import socket
from contextlib import asynccontextmanager

import pytest

from slipstream.base.errors import (
    ContextCreateError,
    EngineDiedError,
    ModelLoadError,
    ModelUnloadedError,
)
from slipstream.base.load_config import LoadConfig
from slipstream.base.queries import Detokenize
from slipstream.base.types import (
    FinishReason,
    GenerationSpec,
    ModelInstanceInfo,
    OutputDelta,
    RequestFailed,
)
from slipstream.engine import frames
from slipstream.engine.client import EngineClient
from tests.support.engine_stats import some_stats

LIMIT_S = 20


def run(test):
    return asyncio.run(asyncio.wait_for(test, LIMIT_S))


class Peer:
    """The engine's end."""

    def __init__(self, sock):
        self._sock = frames.FrameSocket(sock)
        self.ends = []

    async def read(self):
        return frames.decode_command(await asyncio.to_thread(self._sock.read))

    def send(self, *replies):
        assert self._sock.write(b"".join(map(frames.encode, replies)))

    def send_bytes(self, data):
        assert self._sock.write(data)

    def close(self):
        self._sock.close()


@asynccontextmanager
async def connected(how="was killed by SIGKILL"):
    ours, theirs = socket.socketpair()
    theirs.settimeout(LIMIT_S)
    peer = Peer(theirs)

    async def describe():
        return how

    client = await EngineClient.connect(ours, describe, peer.ends.append)
    try:
        yield client, peer
    finally:
        client.close()
        peer.close()
        await asyncio.sleep(0)


def spec(request_id="r"):
    return GenerationSpec(request_id=request_id, prompt="x")


def last(request_id="r", text=""):
    return OutputDelta(request_id, text, finish_reason=FinishReason.STOP)


def test_load_reports_progress_and_returns_the_info():
    async def test():
        async with connected() as (client, peer):
            seen = []
            load = asyncio.create_task(client.load("/m", LoadConfig(parallel=2), seen.append))
            assert await peer.read() == frames.Load("/m", LoadConfig(parallel=2))
            info = ModelInstanceInfo(path="/m")
            peer.send(frames.Progress(0.25), frames.Progress(1.0), frames.Ready(info))
            assert await load == info == client.info
            assert seen == [0.25, 1.0]

    run(test())


@pytest.mark.parametrize(
    ("error", "kind"),
    [("ModelLoadError", ModelLoadError), ("ContextCreateError", ContextCreateError)],
)
def test_a_failed_load_raises_what_the_engine_named(error, kind):
    async def test():
        async with connected() as (client, peer):
            load = asyncio.create_task(client.load("/m", LoadConfig()))
            await peer.read()
            peer.send(frames.LoadFailed(error, "no good", "/m"))
            with pytest.raises(kind, match="no good") as caught:
                await load
            assert getattr(caught.value, "path", "/m") == "/m"

    run(test())


def test_death_during_the_load_is_a_load_error_that_says_how():
    async def test():
        async with connected("aborted (SIGABRT): GGML_ASSERT(x) failed") as (client, peer):
            load = asyncio.create_task(client.load("/m", LoadConfig()))
            await peer.read()
            peer.close()
            with pytest.raises(ModelLoadError, match=r"/m: .*GGML_ASSERT") as caught:
                await load
            assert caught.value.path == "/m"

    run(test())


def test_death_before_the_load_is_a_load_error_that_says_how():
    async def test():
        async with connected("ended with exit code 1") as (client, peer):
            peer.close()
            while not peer.ends:
                await asyncio.sleep(0)
            with pytest.raises(ModelLoadError, match=r"/m: .*exit code 1"):
                await client.load("/m", LoadConfig())

    run(test())


def test_events_reach_the_stream_of_their_request():
    async def test():
        async with connected() as (client, peer):
            streams = [client.submit([spec("a")]), client.submit([spec("b")])]
            assert (await peer.read()).spec.request_id == "a"
            assert (await peer.read()).spec.request_id == "b"
            first = [OutputDelta("a", "1"), OutputDelta("b", "2"), OutputDelta("unknown", "3")]
            peer.send(frames.Events(first), frames.Events([last("b"), last("a", "4")]))
            assert [event async for event in streams[0]] == [OutputDelta("a", "1"), last("a", "4")]
            assert [event async for event in streams[1]] == [OutputDelta("b", "2"), last("b")]
            assert client.num_requests == 0

    run(test())


def test_one_stream_serves_several_requests_until_all_have_ended():
    async def test():
        async with connected() as (client, peer):
            stream = client.submit([spec("a"), spec("b")])
            failed = RequestFailed("b", "QueueFullError", "later")
            peer.send(frames.Events([last("a")]), frames.Events([failed]))
            assert [event async for event in stream] == [last("a"), failed]

    run(test())


def test_closing_a_stream_aborts_its_requests_and_keeps_their_ids_taken():
    async def test():
        async with connected() as (client, peer):
            stream = client.submit([spec("a")])
            await peer.read()
            stream.close()
            stream.close()
            assert await peer.read() == frames.Abort("a")
            assert [event async for event in stream] == []
            again = await anext(client.submit([spec("a")]))
            assert (again.error, again.request_id) == ("InvalidRequestError", "a")
            peer.send(frames.Events([last("a")]))
            while client.num_requests:
                await asyncio.sleep(0)

    run(test())


def test_cancelling_the_reading_task_aborts():
    async def test():
        async with connected() as (client, peer):
            stream = client.submit([spec("a")])
            await peer.read()
            task = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await peer.read() == frames.Abort("a")

    run(test())


def test_dropping_a_stream_aborts():
    async def test():
        async with connected() as (client, peer):
            stream = client.submit([spec("a")])
            await peer.read()
            del stream
            gc.collect()
            assert await peer.read() == frames.Abort("a")

    run(test())


def test_abort_leaves_the_end_to_the_engine():
    async def test():
        async with connected() as (client, peer):
            stream = client.submit([spec("a")])
            client.abort("a")
            client.abort("unknown")
            await peer.read()
            assert await peer.read() == frames.Abort("a")
            end = OutputDelta("a", finish_reason=FinishReason.ABORT)
            peer.send(frames.Events([end]))
            assert [event async for event in stream] == [end]

    run(test())


def test_death_fails_every_request_and_names_the_cause():
    async def test():
        async with connected() as (client, peer):
            streams = [client.submit([spec(name)]) for name in "abc"]
            stats = asyncio.create_task(client.stats())
            await peer.read()
            peer.send(frames.Events([OutputDelta("a", "x")]))
            peer.close()
            for name, stream in zip("abc", streams, strict=True):
                *before, end = [event async for event in stream]
                assert len(before) == (name == "a")
                assert end.error == "EngineDiedError"
                assert "killed by SIGKILL" in end.message
            with pytest.raises(EngineDiedError):
                await stats
            assert peer.ends == ["was killed by SIGKILL"]
            assert not client.is_alive
            late = [event async for event in client.submit([spec("d")])]
            assert [event.error for event in late] == ["EngineDiedError"]
            with pytest.raises(EngineDiedError):
                await client.stats()

    run(test())


def test_an_end_that_was_asked_for_is_told_as_an_unloaded_model():
    async def test():
        async with connected("was stopped") as (client, peer):
            stream, asker = (
                client.submit([spec("a")]),
                asyncio.create_task(client.ask(Detokenize(token_ids=[1]))),
            )
            await peer.read()
            client.shutdown()
            peer.close()
            (end,) = [event async for event in stream]
            assert end.error == "ModelUnloadedError"
            with pytest.raises(ModelUnloadedError, match="unloaded"):
                await asker

    run(test())


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1", frames.encode(frames.Shutdown())]
)
def test_a_malformed_reply_ends_the_engine_but_not_the_reader(data):
    async def test():
        async with connected("was killed") as (client, peer):
            stream = client.submit([spec("a")])
            peer.send(frames.Events([OutputDelta("a", "before")]))
            peer.send_bytes(data)
            events = [event async for event in stream]
            assert events[0].text == "before"
            assert events[1].error == "EngineDiedError"
            assert "no frame" in events[1].message

    run(test())


def test_a_spec_that_cannot_be_sent_fails_alone():
    async def test():
        async with connected() as (client, peer):
            bad = GenerationSpec(request_id="bad", messages=[{"role": "user", "content": 2**70}])
            stream = client.submit([bad, spec("good")])
            assert (await peer.read()).spec.request_id == "good"
            failed = await anext(stream)
            assert (failed.request_id, failed.error) == ("bad", "InvalidRequestError")
            peer.send(frames.Events([last("good")]))
            assert await anext(stream) == last("good")

    run(test())


def test_stats_are_matched_by_serial():
    async def test():
        async with connected() as (client, peer):
            first, second = asyncio.create_task(client.stats()), asyncio.create_task(client.stats())
            serials = [(await peer.read()).serial, (await peer.read()).serial]
            peer.send(
                frames.StatsReply(999, some_stats()), frames.StatsReply(serials[1], some_stats())
            )
            assert await second == some_stats()
            peer.send(frames.StatsReply(serials[0], some_stats()))
            assert await first == some_stats()

    run(test())

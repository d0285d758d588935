"""Frames: every message survives, however its bytes arrive, and no bytes crash a reader."""

import random
import socket
import struct

import msgspec
import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.load_config import LoadConfig
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import (
    FinishReason,
    GenerationSpec,
    ModelInstanceInfo,
    OutputDelta,
    RequestFailed,
    TokenLogprob,
    Usage,
)
from slipstream.engine import frames
from tests.support.engine_stats import some_stats

SPEC = GenerationSpec(
    request_id="r1",
    messages=[{"role": "user", "content": "héllo 🙂", "n": 2**63}],
    sampling=SamplingParams(logit_bias={7: float("-inf")}, stop=("a", "b"), seed=2**64 - 1),
    tools=[{"type": "function"}],
    template_options={"enable_thinking": False},
)
COMMANDS = [
    frames.Load("/m.gguf", LoadConfig(parallel=3, role_affixes={"user": ("a", "b")})),
    frames.Submit(SPEC),
    frames.Abort("r1"),
    frames.GetStats(5),
    frames.Shutdown(),
]
DELTA = OutputDelta(
    "r1",
    "é",
    [1, 2],
    [TokenLogprob(1, b"\xff", -0.5, [(3, b"x", -1.0)])],
    FinishReason.STOP,
    "a",
    Usage(1, 2, 3, 0.5, 0.25, 1.5),
)
REPLIES = [
    frames.Progress(0.5),
    frames.Ready(ModelInstanceInfo(path="/m.gguf", pid=3)),
    frames.LoadFailed("ModelLoadError", "bad", "/m.gguf"),
    frames.Events([DELTA, RequestFailed("r2", "QueueFullError", "later", "prompt")]),
    frames.StatsReply(5, some_stats()),
]


def bodies(*messages):
    return list(frames.FrameSplitter().feed(b"".join(map(frames.encode, messages))))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda m: type(m).__name__)
def test_a_command_survives(command):
    assert frames.decode_command(bodies(command)[0]) == command


@pytest.mark.parametrize("reply", REPLIES, ids=lambda m: type(m).__name__)
def test_a_reply_survives(reply):
    assert frames.decode_reply(bodies(reply)[0]) == reply


def test_frames_are_found_however_the_bytes_are_cut():
    data = b"".join(map(frames.encode, REPLIES))
    rng = random.Random(1)
    for _ in range(200):
        splitter = frames.FrameSplitter()
        found, at = [], 0
        while at < len(data):
            step = rng.choice((1, 2, 3, 7, 50, 1000))
            found += [frames.decode_reply(body) for body in splitter.feed(data[at : at + step])]
            at += step
        assert found == REPLIES


def test_an_absurd_length_is_refused_before_it_is_waited_for():
    splitter = frames.FrameSplitter()
    with pytest.raises(ValueError, match="larger than"):
        list(splitter.feed(struct.pack("<I", frames.MAX_FRAME_BYTES + 1)))


def test_no_bytes_crash_a_decoder():
    rng = random.Random(2)
    seeds = [bodies(message)[0] for message in (*COMMANDS, *REPLIES)]
    for _ in range(4000):
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        for decode in (frames.decode_command, frames.decode_reply):
            try:
                decode(bytes(body))
            except ValueError:
                frames.request_id_of(bytes(body))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91" * 100_000, b"\x80", b"\xa3abc"])
def test_odd_bodies_are_value_errors(body):
    for decode in (frames.decode_command, frames.decode_reply):
        with pytest.raises(ValueError, match="not a"):
            decode(body)
    assert frames.request_id_of(body) is None


def test_the_id_of_a_refused_submit_is_found():
    raw = {"type": "submit", "spec": {"request_id": "r9", "sampling": {"temperature": -1}}}
    body = msgspec.msgpack.encode(raw)
    with pytest.raises(ValueError, match="temperature"):
        frames.decode_command(body)
    assert frames.request_id_of(body) == "r9"


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [2**64, "\ud800", nested(5000), object()], ids=["int", "surrogate", "deep", "object"]
)
def test_what_msgpack_cannot_carry_is_the_callers_fault(value):
    spec = GenerationSpec(request_id="r", messages=[{"role": "user", "content": value}])
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        frames.encode(frames.Submit(spec))


def test_a_message_above_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    with pytest.raises(InvalidRequestError, match="larger than the 100"):
        frames.encode(frames.Abort("x" * 100))


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield frames.FrameSocket(ours), theirs
    ours.close()
    theirs.close()


def test_a_socket_reads_frames_and_then_the_end(pair):
    reader, other = pair
    other.sendall(frames.encode(COMMANDS[2]) + frames.encode(COMMANDS[3]) + b"\x09\0\0\0cut")
    other.close()
    assert frames.decode_command(reader.read()) == COMMANDS[2]
    assert frames.decode_command(reader.read()) == COMMANDS[3]
    assert reader.read() is None


def test_writing_to_a_closed_peer_says_so(pair):
    writer, other = pair
    other.close()
    assert writer.write(b"x") is False

"""The engine process' side of the socket, in a thread, with a fake model."""

import logging
import queue
import socket
import sys
import threading

import msgspec
import pytest

from slipstream.base.errors import ModelLoadError
from slipstream.base.load_config import LoadConfig
from slipstream.base.queries import Detokenize, QueryFailed, Text
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import GenerationSpec, OutputDelta, RequestFailed
from slipstream.engine import frames
from slipstream.runtime.worker import (
    EXIT_ENGINE_DIED,
    EXIT_LOAD_FAILED,
    LineFormatter,
    ReplyWriter,
    Worker,
)
from tests.support.fake_runner import scripted, text_tokens
from tests.support.fake_text_model import FakeTextModel, fake_host

LIMIT_S = 20


class Running:
    """A Worker in a thread and the API's end of its socket."""

    def __init__(self, load):
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT_S)
        self.socket = frames.FrameSocket(ours)
        self.left = queue.Queue()
        self._exit_codes = queue.Queue()
        worker = Worker(theirs, load, self.left.put)
        self._thread = threading.Thread(target=lambda: self._exit_codes.put(worker.run()))
        self._thread.start()

    def send(self, command):
        assert self.socket.write(frames.encode(command))

    def read(self):
        return frames.decode_reply(self.socket.read())

    def events_until_end(self, request_id):
        found = []
        while True:
            for event in self.read().events:
                if event.request_id == request_id:
                    found.append(event)
                    if isinstance(event, RequestFailed) or event.finish_reason:
                        return found

    def exit_code(self):
        return self._exit_codes.get(timeout=LIMIT_S)


@pytest.fixture
def model():
    return FakeTextModel(next_token=scripted((text_tokens("^ab"), text_tokens("hello"))))


@pytest.fixture
def worker(model):
    def load(path, config, progress):
        assert progress(0.5)
        return fake_host(model)

    running = Running(load)
    running.send(frames.Load("/m", LoadConfig()))
    assert running.read() == frames.Progress(0.5)
    assert isinstance(running.read(), frames.Ready)
    yield running
    running.send(frames.Shutdown())
    running.exit_code()
    running.socket.close()
    assert running.left.get(timeout=LIMIT_S) == 0  # the reader leaves when the socket closes


def submit(worker, request_id="r", **sampling):
    spec = GenerationSpec(request_id=request_id, prompt="ab", sampling=SamplingParams(**sampling))
    worker.send(frames.Submit(spec))


def test_requests_are_answered(worker):
    submit(worker)
    assert "".join(event.text for event in worker.events_until_end("r")) == "hello"


def test_a_request_can_be_aborted(worker, model):
    model.gate = threading.Semaphore(0)
    submit(worker)
    assert model.in_step.wait(LIMIT_S)
    worker.send(frames.Abort("r"))
    worker.send(frames.Abort("unknown"))
    worker.send(frames.GetStats(1))
    assert worker.read().serial == 1  # so the abort has been read
    model.gate.release(100)
    assert worker.events_until_end("r")[-1].finish_reason == "abort"


def test_odd_commands_are_refused_and_the_next_one_is_answered(worker):
    bad = {"type": "submit", "spec": {"request_id": "bad", "sampling": {"top_p": 7}}}
    for body in (b"\xc1", b"", msgspec.msgpack.encode(bad)):
        worker.socket.write(len(body).to_bytes(4, "little") + body)
    assert worker.events_until_end("bad")[0].error == "InvalidRequestError"
    submit(worker)
    assert worker.events_until_end("r")[-1].finish_reason == "stop"


def test_stats_are_told(worker):
    worker.send(frames.GetStats(7))
    reply = worker.read()
    assert (reply.serial, reply.stats.num_running) == (7, 0)


def test_shutdown_fails_what_runs(model):
    model.gate = threading.Semaphore(0)
    running = Running(lambda path, config, progress: fake_host(model))
    running.send(frames.Load("/m", LoadConfig()))
    running.read()
    submit(running)
    assert model.in_step.wait(LIMIT_S)
    running.send(frames.Shutdown())
    assert running.events_until_end("r")[-1].error == "ModelUnloadedError"
    model.gate.release(100)
    assert running.exit_code() == 0
    running.socket.close()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ModelLoadError("no magic", path="/m-2"), "ModelLoadError", "no magic"),
        (RuntimeError("odd"), "ModelLoadError", "cannot load /m: RuntimeError: odd"),
    ],
)
def test_a_failed_load_is_told(error, kind, message):
    def load(path, config, progress):
        raise error

    running = Running(load)
    running.send(frames.Load("/m", LoadConfig()))
    reply = running.read()
    assert (reply.error, reply.message) == (kind, message)
    assert reply.path == getattr(error, "path", "/m")
    assert running.exit_code() == EXIT_LOAD_FAILED
    running.socket.close()


def test_a_closed_socket_ends_the_process_even_during_a_load():
    loading, go_on = threading.Event(), threading.Event()

    def load(path, config, progress):
        loading.set()
        assert go_on.wait(LIMIT_S)
        raise ModelLoadError("too late")

    running = Running(load)
    running.send(frames.Load("/m", LoadConfig()))
    assert loading.wait(LIMIT_S)
    running.socket.close()
    assert running.left.get(timeout=LIMIT_S) == 0
    go_on.set()
    running.exit_code()


def test_shutdown_cancels_a_load():
    def load(path, config, progress):
        while progress(0.1):
            pass
        raise ModelLoadError("cancelled")

    running = Running(load)
    running.send(frames.Load("/m", LoadConfig()))
    running.send(frames.Shutdown())
    while not isinstance(reply := running.read(), frames.LoadFailed):
        assert isinstance(reply, frames.Progress)
    assert running.exit_code() == EXIT_LOAD_FAILED
    running.socket.close()


def test_an_engine_that_stopped_for_good_ends_the_process(model, monkeypatch):
    host = fake_host(model)
    running = Running(lambda path, config, progress: host)
    running.send(frames.Load("/m", LoadConfig()))
    running.read()

    def submit_to_the_dead(spec, sink):
        sink([RequestFailed(spec.request_id, "EngineDiedError", "the engine has stopped")])

    monkeypatch.setattr(host, "submit", submit_to_the_dead)
    submit(running)
    assert running.events_until_end("r")[-1].error == "EngineDiedError"
    assert running.exit_code() == EXIT_ENGINE_DIED
    running.socket.close()


def test_a_slow_reader_gets_the_events_of_many_steps_in_few_frames():
    ours, theirs = socket.socketpair()
    ours.settimeout(LIMIT_S)
    writer = ReplyWriter(frames.FrameSocket(theirs))
    text = "x" * 10_000
    for number in range(1000):  # far more than the socket holds; never blocks
        writer.send_events([OutputDelta(f"r{number}", text)])
    reader = frames.FrameSocket(ours)
    ids, num_frames = [], 0
    while len(ids) < 1000:
        num_frames += 1
        ids += [event.request_id for event in frames.decode_reply(reader.read()).events]
    assert ids == [f"r{number}" for number in range(1000)]
    assert num_frames < 1000
    writer.flush(LIMIT_S)
    reader.close()


def test_events_too_large_for_a_frame_are_sent_in_parts(monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 300)
    ours, theirs = socket.socketpair()
    ours.settimeout(LIMIT_S)
    writer = ReplyWriter(frames.FrameSocket(theirs))
    events = [OutputDelta(name, "x" * 100) for name in "abcd"]
    events.insert(2, OutputDelta("big", "x" * 400))
    writer.send_events(events)
    reader = frames.FrameSocket(ours)
    got = []
    while len(got) < 5:
        got += frames.decode_reply(reader.read()).events
    assert got[2].error == "InvalidRequestError"
    assert [event.request_id for event in got] == ["a", "b", "big", "c", "d"]
    reader.close()


def test_every_line_of_a_log_record_tells_its_level():
    try:
        raise KeyError("x")
    except KeyError:
        record = logging.LogRecord(
            "slipstream.x", logging.ERROR, "", 0, "one\ntwo %d", (2,), sys.exc_info()
        )
    lines = LineFormatter().format(record).splitlines()
    assert lines[:2] == ["ERROR slipstream.x: one", "ERROR slipstream.x: two 2"]
    assert lines[-1] == "ERROR slipstream.x: KeyError: 'x'"
    assert all(line.startswith("ERROR slipstream.x: ") for line in lines)


def test_a_question_about_text_is_answered_or_refused(worker):
    worker.send(frames.Ask(7, Detokenize(token_ids=text_tokens("ab"))))
    assert worker.read() == frames.AskReply(7, Text(text="ab"))
    worker.send(frames.Ask(8, Detokenize(token_ids=[-1])))
    reply = worker.read()
    assert (reply.serial, type(reply.answer), reply.answer.param) == (8, QueryFailed, "tokens")


def test_a_question_that_cannot_be_read_is_refused(worker):
    body = msgspec.msgpack.encode({"type": "ask", "serial": 3, "query": {"type": "no"}})
    assert worker.socket.write(len(body).to_bytes(4, "little") + body)
    reply = worker.read()
    assert (reply.serial, type(reply.answer)) == (3, QueryFailed)

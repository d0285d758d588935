"""The host gives every request exactly one end, whatever comes in between."""

import random
import threading
import time
from collections import defaultdict

import pytest

from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, GenerationSpec, RequestFailed
from slipstream.runtime.prompts import ChosenFormat
from tests.support.fake_runner import scripted, text_tokens
from tests.support.fake_text_model import FakeFormat, FakeTextModel, fake_host

LIMIT_S = 20


class Sink:
    """Keeps the events of each request and lets a test wait for ends."""

    def __init__(self):
        self.changed = threading.Condition()
        self.calls = []
        self.events = defaultdict(list)
        self.ends = {}

    def __call__(self, events):
        with self.changed:
            self.calls.append(events)
            for event in events:
                assert event.request_id not in self.ends, "an event after the end"
                self.events[event.request_id].append(event)
                if isinstance(event, RequestFailed) or event.finish_reason is not None:
                    self.ends[event.request_id] = event
            self.changed.notify_all()

    def wait_end(self, request_id):
        with self.changed:
            assert self.changed.wait_for(lambda: request_id in self.ends, LIMIT_S)
            return self.ends[request_id]

    def text(self, request_id):
        return "".join(event.text for event in self.events[request_id])


@pytest.fixture
def hosted():
    hosts = []

    def make(runner, **options):
        hosts.append(fake_host(runner, **options))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def spec(request_id="r", prompt="ab", **fields):
    sampling = SamplingParams(**fields.pop("sampling", {}))
    return GenerationSpec(request_id=request_id, prompt=prompt, sampling=sampling, **fields)


def speaking(**outputs):
    """A model that answers ^prompt; with the given output."""
    pairs = [(text_tokens("^" + prompt), text_tokens(text)) for prompt, text in outputs.items()]
    return FakeTextModel(next_token=scripted(*pairs))


def test_a_prompt_is_answered(hosted):
    sink = Sink()
    hosted(speaking(ab="hello")).submit(spec(), sink)
    end = sink.wait_end("r")
    assert end.finish_reason is FinishReason.STOP
    assert end.usage.num_prompt_tokens == 3
    assert sink.text("r") == "hello"


def test_echo_comes_first_and_once(hosted):
    sink = Sink()
    hosted(speaking(ab="hello")).submit(spec(echo_prompt=True), sink)
    sink.wait_end("r")
    assert sink.text("r") == "abhello"
    assert sink.events["r"][0].text.startswith("ab")


def test_echo_alone_with_no_token_to_generate(hosted):
    sink = Sink()
    hosted(speaking()).submit(spec(echo_prompt=True, sampling={"max_tokens": 0}), sink)
    assert sink.wait_end("r").text == "ab"
    assert sink.ends["r"].finish_reason is FinishReason.LENGTH


def test_the_stop_strings_of_the_format_join_those_of_the_request(hosted):
    sink = Sink()
    model = FakeTextModel(
        next_token=scripted((text_tokens("^user:q;0assistant:"), text_tokens("yesENDno")))
    )
    host = hosted(model, chosen=ChosenFormat(FakeFormat(), "fallback", ("END",)))
    messages = [{"role": "user", "content": "q"}]
    host.submit(
        GenerationSpec(request_id="r", messages=messages, sampling=SamplingParams(stop=("never",))),
        sink,
    )
    assert sink.wait_end("r").stop_string == "END"
    assert sink.text("r") == "yes"


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"prompt": "x" * 500}, "ContextLengthError", "prompt"),
        ({"prompt": None}, "InvalidRequestError", "prompt"),
        ({"prompt": None, "prompt_token_ids": [-1]}, "InvalidRequestError", "prompt"),
        ({"prompt": None, "prompt_token_ids": [10**6]}, "InvalidRequestError", "prompt"),
        ({"prompt": None, "messages": [{"role": "evil"}]}, "TemplateError", "messages"),
        ({"prompt": None, "messages": [{"role": "user"}]}, "SlipstreamError", None),
    ],
)
def test_what_cannot_be_done_fails_alone(hosted, fields, error, param):
    host, sink = hosted(speaking(ok="fine")), Sink()
    host.submit(spec("bad", **fields), sink)
    host.submit(spec("good", "ok"), sink)
    bad = sink.wait_end("bad")
    assert (bad.error, bad.param) == (error, param)
    sink.wait_end("good")
    assert sink.text("good") == "fine"


def test_a_running_id_is_refused_and_the_first_one_goes_on(hosted):
    gate = threading.Semaphore(0)
    model = speaking(ab="hello")
    model.gate = gate
    host, first, second = hosted(model), Sink(), Sink()
    host.submit(spec(), first)
    host.submit(spec(), second)
    assert second.wait_end("r").error == "InvalidRequestError"
    gate.release(100)
    first.wait_end("r")
    assert first.text("r") == "hello"


def test_more_than_may_wait_is_refused_and_room_comes_back(hosted):
    model = speaking(ab="hello")
    model.gate = threading.Semaphore(0)
    host, sink = hosted(model, max_waiting=1), Sink()
    for i in range(6):  # 4 sequences and one that waits
        host.submit(spec(f"r{i}"), sink)
    assert sink.wait_end("r5").error == "QueueFullError"
    model.gate.release(1000)
    for i in range(5):
        sink.wait_end(f"r{i}")
    host.submit(spec("late"), sink)
    sink.wait_end("late")
    assert sink.text("late") == "hello"


def test_abort_while_the_prompt_is_made(hosted):
    model = speaking(ab="hello")
    model.may_tokenize = threading.Event()
    host, sink = hosted(model), Sink()
    host.submit(spec("a"), sink)
    assert model.tokenizing.wait(LIMIT_S)
    host.submit(spec("b"), sink)  # waits behind it
    host.abort("a")
    host.abort("b")
    host.abort("unknown")
    model.gate = threading.Semaphore(0)
    model.may_tokenize.set()
    assert sink.wait_end("b").finish_reason is FinishReason.ABORT
    model.gate.release(100)
    assert sink.wait_end("a").finish_reason is FinishReason.ABORT
    assert sink.text("b") == ""


def test_events_of_one_step_reach_a_sink_in_one_call(hosted):
    model = speaking(ab="hello", cd="world")
    host, sink, other = hosted(model), Sink(), Sink()
    model.gate = threading.Semaphore(0)
    host.submit(spec("a", "ab"), sink)
    host.submit(spec("b", "cd"), sink)
    host.submit(spec("c", "ab"), other)
    deadline = time.monotonic() + LIMIT_S
    while host.stats().num_running + host.stats().num_waiting < 3:  # the engine knows all of them
        assert time.monotonic() < deadline
    model.gate.release(1000)
    for request_id in "ab":
        sink.wait_end(request_id)
    other.wait_end("c")
    assert any(len(call) == 2 for call in sink.calls)
    assert {event.request_id for call in other.calls for event in call} == {"c"}


def test_a_failing_sink_costs_only_its_own_events(hosted):
    def broken(events):
        raise RuntimeError("broken sink")

    host, sink = hosted(speaking(ab="hello")), Sink()
    host.submit(spec("bad"), broken)
    host.submit(spec("good"), sink)
    sink.wait_end("good")
    assert sink.text("good") == "hello"


def wait_closing(host):
    probe, deadline = Sink(), time.monotonic() + LIMIT_S
    number = 0
    while not any(end.error == "ModelUnloadedError" for end in probe.ends.values()):
        assert time.monotonic() < deadline
        number += 1
        host.submit(spec(f"probe {number}"), probe)


def test_close_fails_what_runs_and_what_comes_later(hosted):
    model = speaking(ab="hello")
    model.may_tokenize = threading.Event()
    host, sink = hosted(model), Sink()
    host.submit(spec("a"), sink)
    host.submit(spec("b"), sink)
    assert model.tokenizing.wait(LIMIT_S)
    closer = threading.Thread(target=host.close)
    closer.start()
    wait_closing(host)
    model.may_tokenize.set()
    closer.join(LIMIT_S)
    host.close()
    host.submit(spec("c"), sink)
    assert {sink.wait_end(name).error for name in "abc"} == {"ModelUnloadedError"}
    assert model.is_closed


def test_random_traffic_ends_every_request_once(hosted):
    rng = random.Random(3)
    host, sink = hosted(FakeTextModel(), max_waiting=20), Sink()
    ids = [f"r{i}" for i in range(150)]

    def client(mine):
        for request_id in mine:
            sampling = {"max_tokens": rng.randint(0, 12), "seed": 1}
            prompt = "p" * rng.choice((0, 1, 5, 40, 400))
            host.submit(spec(request_id, prompt, sampling=sampling), sink)
            if rng.random() < 0.4:
                host.abort(rng.choice(mine))

    threads = [threading.Thread(target=client, args=(ids[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    for request_id in ids:
        assert time.monotonic() < deadline
        sink.wait_end(request_id)
    assert host.stats().num_running == 0

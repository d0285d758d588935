"""The client and the driver against a server that misbehaves by script."""

import asyncio
import itertools
import threading

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.serve import (
    Arm,
    Client,
    Conversation,
    Load,
    Plan,
    Target,
    Workload,
    figures_of,
    run_rounds,
    run_workload,
)  # fmt: skip
from tests.support.scripted_chat_server import scripted_server

LIMIT_S = 30


def well(answer, body):
    answer.begin()
    answer.words(body["max_tokens"])
    answer.done(body["max_tokens"])


def workload(num=1, turns=("hello",), max_tokens=3, intruded=()):
    chats = [
        Conversation(turns=turns, max_tokens=max_tokens, label="x", seed=n) for n in range(num)
    ]
    return Workload(name="x", conversations=tuple(chats), intruded=tuple(intruded))


def drive(url, asked, load=None, **target):
    async def run():
        async with Client(
            Target(url=url, timeout_s=target.pop("timeout_s", LIMIT_S), **target)
        ) as client:
            return await run_workload(client, asked, load or Load(concurrency=4), seed=1)

    return asyncio.run(run())


def drive_script(script, *args, **kwargs):
    with scripted_server(script) as url:
        return drive(url, *args, **kwargs)


def test_a_whole_answer_is_timed_and_counted_by_usage():
    run = drive_script(well, workload(num=5))
    assert [result.error for result in run.results] == [None] * 5
    first = run.results[0]
    assert (first.num_output_tokens, first.num_prompt_tokens, first.num_cached_tokens) == (3, 9, 4)
    assert first.text == "w0 w1 w2 "
    assert first.sent_s < first.chunk_s[0] <= first.chunk_s[-1] <= first.ended_s
    assert figures_of(run).from_usage


def test_without_usage_pieces_are_counted():
    def no_usage(answer, body):
        answer.begin()
        answer.words(4)
        answer.done()

    figures = figures_of(drive_script(no_usage, workload()))
    assert (figures.num_output_tokens, figures.from_usage) == (4, False)
    assert figures.num_cached_tokens is None


def cut(answer, _body):
    answer.begin()
    answer.words(2, finish=None)


def cut_inside_an_event(answer, _body):
    answer.begin()
    answer.words(1, finish=None)
    answer.raw('data: {"choices": [{"ind')


def stall(answer, _body):
    answer.begin()
    answer.words(1, finish=None)
    answer.stall()


def error_event(answer, _body):
    answer.begin()
    answer.words(1, finish=None)
    answer.event({"error": {"message": "the engine died", "code": "engine_died"}})


def no_chunk(answer, _body):
    answer.begin()
    answer.event([1, 2])


@pytest.mark.parametrize(
    ("script", "error", "detail"),
    [
        (cut, "truncated", "after 2 pieces"),
        (cut_inside_an_event, "bad answer", "ind"),
        (error_event, "error event", "engine died"),
        (no_chunk, "bad answer", "[1, 2]"),
        (lambda answer, _body: answer.status(503, "busy"), "http 503", "busy"),
        (lambda answer, _body: answer.status(200, "no stream"), "truncated", "0 pieces"),
    ],
)  # fmt: skip
def test_a_bad_answer_is_a_failed_request_of_its_kind(script, error, detail):
    (result,) = drive_script(script, workload()).results
    assert result.error == error
    assert detail in result.detail
    assert result.ended_s >= result.sent_s


def test_a_stalled_answer_times_out_and_keeps_what_came():
    (result,) = drive_script(stall, workload(), timeout_s=0.3).results
    assert result.error == "timeout"
    assert len(result.chunk_s) == 1


def test_a_server_that_is_gone_fails_each_request():
    with scripted_server(well) as url:
        pass
    run = drive(url, workload(num=2), model="m")
    assert [result.error for result in run.results] == ["connect", "connect"]


def test_some_failures_leave_the_others_alone():
    number = itertools.count()

    def sometimes(answer, body):
        if next(number) % 2:
            answer.status(500, "oops")
        else:
            well(answer, body)

    figures = figures_of(drive_script(sometimes, workload(num=6)))
    assert (figures.num_requests, figures.num_failed) == (6, 3)
    assert figures.errors == {"http 500": 3}


def test_turns_carry_the_answers_before_them():
    seen = []

    def script(answer, body):
        seen.append([(message["role"], message["content"]) for message in body["messages"]])
        well(answer, body)

    run = drive_script(script, workload(turns=("one", "two")))
    assert seen[1] == [("user", "one"), ("assistant", "w0 w1 w2 "), ("user", "two")]
    assert [result.turn for result in run.results] == [0, 1]


def test_turns_after_a_failed_one_count_as_failed():
    run = drive_script(
        lambda answer, _body: answer.status(500, ""), workload(turns=("a", "b", "c"))
    )
    assert [result.error for result in run.results] == ["http 500", "not sent", "not sent"]


def test_a_closed_loop_never_has_more_requests_than_its_concurrency():
    lock, now, most = threading.Lock(), [0], [0]

    def script(answer, body):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        well(answer, body)
        with lock:
            now[0] -= 1

    run = drive_script(script, workload(num=20), Load(concurrency=1))
    assert len(run.results) == 20
    assert most[0] == 1


def test_an_open_loop_sends_on_while_nothing_is_answered():
    everyone = threading.Barrier(6)  # no answer before all requests are there

    def script(answer, body):
        everyone.wait(LIMIT_S)
        well(answer, body)

    run = drive_script(script, workload(num=6), Load(rate=200.0))
    assert [result.error for result in run.results] == [None] * 6


def test_an_intrusion_measures_streams_from_before_to_after_the_wait():
    intruder_is_here, intruder_is_done = threading.Event(), threading.Event()

    def script(answer, body):
        answer.begin()
        if body["messages"][-1]["content"] == "intruder":
            intruder_is_here.set()
            answer.words(1, finish=None)
            intruder_is_done.set()
            answer.words(1)
            answer.done(2)
        else:
            answer.words(6, finish=None)
            intruder_is_done.wait(LIMIT_S)
            while True:  # until the driver goes away
                answer.words(1, finish=None)

    streams = [Conversation(turns=("stream",), max_tokens=9, label="stream") for _ in range(2)]
    run = drive_script(script, workload(turns=("intruder",), intruded=streams))
    assert intruder_is_here.is_set()
    assert [result.label for result in run.intruded] == ["stream", "stream"]
    (intruder,) = run.results
    for stream in run.intruded:
        assert stream.error is None
        assert stream.chunk_s[0] <= intruder.sent_s + 0.5
        assert stream.chunk_s[-1] >= intruder.chunk_s[0]


def test_servers_take_turns_and_get_the_same_texts_of_a_round():
    seen = []

    def script(name):
        def play(answer, body):
            seen.append((name, body["messages"][-1]["content"], body["seed"]))
            well(answer, body)

        return play

    plan = Plan(workload="short", num=1, rounds=2, warm_up=False, load=Load(concurrency=1))
    told = []
    with scripted_server(script("a")) as a, scripted_server(script("b")) as b:
        arms = [
            Arm(name="a", target=Target(url=a)),
            Arm(name="b", target=Target(url=b + "/v1/")),
            Arm(name="a again", target=Target(url=a), other_texts=True),
        ]
        asyncio.run(run_rounds(plan, arms, lambda *args: told.append(args)))
    assert [name for name, _text, _seed in seen] == ["a", "b", "a", "a", "b", "a"]
    texts = [entry[1:] for entry in seen]
    assert texts[0] == texts[1] != texts[2]
    assert texts[4] == texts[5] != texts[3]
    assert len(set(texts)) == 4
    assert arms[0].model == "scripted"
    assert told[-1] == ("a 2/2", 6, 6)


def test_a_server_that_cannot_answer_a_warm_up_is_told_at_once():
    with scripted_server(lambda answer, _body: answer.status(401, "no key")) as url:
        arms = [Arm(name="server", target=Target(url=url))]
        with pytest.raises(InvalidRequestError, match="http 401: no key"):
            asyncio.run(run_rounds(Plan(), arms))


def test_a_server_without_models_is_told():
    with scripted_server(well) as url:
        pass
    arms = [Arm(name="server", target=Target(url=url))]
    with pytest.raises(InvalidRequestError, match="is a server running there"):
        asyncio.run(run_rounds(Plan(), arms))


def test_fields_only_some_servers_know_can_be_left_out():
    seen = []

    def script(answer, body):
        seen.append(set(body))
        well(answer, body)

    drive_script(script, workload(), ignore_eos=False)
    assert not {"ignore_eos", "top_k", "min_p"} & seen[0]

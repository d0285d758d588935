import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.serve import WORKLOADS, make_workload


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_makes_the_same_texts_and_another_one_makes_new_ones(name):
    first = make_workload(name, num=4, seed=1)
    assert first == make_workload(name, num=4, seed=1)
    known = {turn for conversation in first.conversations for turn in conversation.turns}
    other = make_workload(name, num=4, seed=2)
    assert len(known) == first.num_requests
    assert known.isdisjoint(turn for conv in other.conversations for turn in conv.turns)


@pytest.mark.parametrize("name", WORKLOADS)
def test_answers_are_as_long_as_asked(name):
    workload = make_workload(name, num=6, max_tokens=5)
    assert {conversation.max_tokens for conversation in workload.conversations} == {5}


def test_a_shared_prefix_is_one_long_system_prompt():
    workload = make_workload("shared-prefix", num=3)
    (system,) = {conversation.system for conversation in workload.conversations}
    assert len(system.split()) == 700
    assert workload.conversations[0].opening() == [{"role": "system", "content": system}]


def test_a_multi_turn_chat_has_three_turns():
    workload = make_workload("multi-turn", num=2)
    assert [len(conversation.turns) for conversation in workload.conversations] == [3, 3]
    assert workload.num_requests == 6


def test_a_copy_edit_holds_a_file_of_forty_lines_and_is_greedy():
    (conversation,) = make_workload("copy-edit", num=1).conversations
    file = conversation.turns[0].split("```python\n")[1].split("\n```")[0]
    assert len(file.splitlines()) == 40
    compile(file, "copied.py", "exec")
    name = conversation.turns[0].split()[3]
    assert f"def {name}(" in file
    assert conversation.temperature == 0


def test_an_intrusion_has_four_streams_and_a_long_prompt():
    workload = make_workload("intrusion", num=2)
    assert len(workload.intruded) == 4
    assert {conversation.label for conversation in workload.conversations} == {"intruder"}
    assert len(workload.conversations[0].turns[0].split()) > 2900


def test_a_mixed_workload_has_several_kinds():
    labels = {conversation.label for conversation in make_workload("mixed", num=60).conversations}
    assert {"short", "creative", "shared-prefix", "multi-turn"} <= labels


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"name": "nope", "num": 1}, "workload"),
        ({"name": "short", "num": 0}, "num"),
        ({"name": "short", "num": 1, "max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_is_out_of_range_is_refused(given, param):
    with pytest.raises(InvalidRequestError) as caught:
        make_workload(**given)
    assert caught.value.param == param

"""What `slipstream load` makes of its options."""

import httpx2
import pytest
import typer

from slipstream.base.errors import InvalidRequestError, ModelNotFoundError
from slipstream.cli.instances import _choose, _choose_model, _on_gpu, _queue
from slipstream.cli.server_client import ServerClient


@pytest.mark.parametrize(
    ("gpu", "fields"),
    [
        ("off", {"gpu_layers": 0}),
        ("max", {"gpu_layers": -1}),
        ("20", {"gpu_layers": 20}),
        ("2", {"gpu_layers": 2}),
        ("0.5", {"gpu_ratio": 0.5}),
        ("1", {"gpu_ratio": 1.0}),  # all of it, as in LM Studio
        ("0", {"gpu_ratio": 0.0}),
    ],
)
def test_a_share_or_a_number_of_layers(gpu, fields):
    assert _on_gpu(gpu) == fields


@pytest.mark.parametrize("gpu", ["half", "-1", "1.5", "nan", "9999999999", ""])
def test_what_is_neither_is_wrong_usage(gpu):
    with pytest.raises(typer.BadParameter, match="share from 0 to 1"):
        _on_gpu(gpu)


def test_the_only_choice_needs_no_question_and_others_need_somebody_to_ask():
    assert _choose("unload", ["a"], ["a"]) == "a"
    with pytest.raises(InvalidRequestError, match="say what to unload: a, b"):
        _choose("unload", ["a", "b"], ["a", "b"])


def test_what_waits_is_what_does_not_run():
    def queued(num_requests, **config):
        return _queue({"num_requests": num_requests, "config": config})["queued"]

    assert [queued(n, parallel=4) for n in (0, 4, 5, 9)] == [0, 0, 1, 5]
    assert queued(3) == 0  # an embedding model has no such limit


def test_where_there_are_no_models_it_says_so():
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"models": []}))
    with pytest.raises(ModelNotFoundError, match="slipstream get"):
        _choose_model(ServerClient("http://box:1", None, transport))

"""What is refused before a request reaches the engine."""

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.base.sampling import SamplingParams
from slipstream.engine.request import Request, check_request
from tests.support.fake_runner import FakeRunner

INFO = FakeRunner().info
LAST = INFO.num_vocab - 1


def check(prompt=(1, 2), **sampling):
    check_request(Request("r", list(prompt), SamplingParams(**sampling)), INFO)


@pytest.mark.parametrize("strange", [LAST + 1, -1, 2**40, "7", 1.0, True])
def test_what_is_no_token_id_is_refused_in_the_prompt_and_among_the_stop_tokens(strange):
    for param, arguments in (
        ("prompt", {"prompt": (1, strange)}),
        ("stop_token_ids", {"stop_token_ids": (1, strange)}),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            check(**arguments)
        assert caught.value.param == param
        assert f"{param} holds" in caught.value.message
        assert repr(strange) in caught.value.message


def test_every_token_id_of_the_vocabulary_is_accepted():
    check(prompt=(0, LAST), stop_token_ids=(0, LAST))
    check()

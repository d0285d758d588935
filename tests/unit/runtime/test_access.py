import pytest

from slipstream.base.errors import AccessDeniedError, AuthenticationError, TooManyAttemptsError
from slipstream.runtime.access import MAX_FAILURES, REFILL_S, Access, FailureLimit
from slipstream.runtime.tokens import TokenStore, new_secret

HERE, THERE = "192.0.2.1", "192.0.2.2"


class Clock:
    now_s = 50.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tokens():
    return TokenStore()


@pytest.fixture
def access(tokens, clock):
    return Access(tokens, "run-key", clock=clock)


def near(secret):
    """A wrong token of the same id."""
    return secret[:-1] + ("a" if secret[-1] != "a" else "b")


def test_a_token_opens_what_it_is_for(access, tokens):
    _, secret = tokens.create("mine", ["inference"])
    access.check(secret, HERE, "inference")
    with pytest.raises(AccessDeniedError, match="'mine' lacks the permission 'models'"):
        access.check(secret, HERE, "models")


def test_the_key_of_this_run_opens_everything(access):
    access.check("run-key", HERE, "logs")


@pytest.mark.parametrize("secret", [None, "none", "", "sk-lm-", "é", "\ud800", "run-key "])
def test_anything_else_opens_nothing(access, tokens, secret):
    tokens.create("mine")
    with pytest.raises(AuthenticationError, match="slipstream token create"):
        access.check(secret, HERE, "inference")


def guess(access, secret, address, times):
    for _ in range(times):
        with pytest.raises(AuthenticationError):
            access.check(secret, address, "inference")


def test_guessing_is_slowed_down_and_not_even_told_when_right(access, tokens, clock):
    _, secret = tokens.create("mine")
    guess(access, near(secret), HERE, MAX_FAILURES)
    with pytest.raises(TooManyAttemptsError) as stop:
        access.check(secret, HERE, "inference")
    assert 0 < stop.value.retry_after_s <= REFILL_S
    access.check(secret, THERE, "inference")
    clock.now_s += REFILL_S
    access.check(secret, HERE, "inference")
    guess(access, near(secret), HERE, 1)
    with pytest.raises(TooManyAttemptsError):
        access.check(near(secret), HERE, "inference")


def test_who_guesses_one_token_does_not_lock_out_the_others_of_the_address(access, tokens):
    _, secret = tokens.create("mine")
    _, other = tokens.create("other")
    guess(access, new_secret(), HERE, MAX_FAILURES)
    guess(access, near(other), HERE, MAX_FAILURES)
    access.check(secret, HERE, "inference")
    with pytest.raises(TooManyAttemptsError):
        access.check(new_secret(), HERE, "inference")


def test_a_network_of_ipv6_is_one_guesser(access):
    for i in range(MAX_FAILURES):
        guess(access, new_secret(), f"2001:db8::{i:x}", 1)
    with pytest.raises(TooManyAttemptsError):
        access.check(new_secret(), "2001:db8::ffff", "inference")
    guess(access, new_secret(), "2001:db8:0:1::1", 1)


def test_no_token_at_all_is_no_guess(access):
    guess(access, None, HERE, 3 * MAX_FAILURES)
    guess(access, new_secret(), HERE, 1)


def test_a_damaged_file_closes_the_door_and_is_told_once(access, tokens, slipstream_home, caplog):
    _, secret = tokens.create("mine")
    (slipstream_home / "tokens.json").write_text("{", encoding="utf-8")
    guess(access, secret, HERE, 3)
    assert caplog.text.count("no token is accepted") == 1
    assert secret not in caplog.text
    access.check("run-key", HERE, "inference")


def test_failures_of_many_addresses_take_bounded_memory(clock):
    limit = FailureLimit(clock, most=1)
    for i in range(10_000):
        limit.note((str(i), ""))
    assert len(limit._empty_at_s) == 4096
    assert limit.wait_s(("9999", "")) > 0

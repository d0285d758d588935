import re
import threading

import pytest

from slipstream.base.errors import InvalidRequestError, StoreError, TokenNotFoundError
from slipstream.runtime.tokens import TokenStore, id_of


@pytest.fixture
def tokens(tmp_path):
    return TokenStore(tmp_path / "tokens.json", clock=lambda: 1000.0)


def test_a_token_has_the_form_that_sdks_check(tokens):
    _, secret = tokens.create("mine")
    assert re.fullmatch(r"sk-lm-[A-Za-z0-9]{8}:[A-Za-z0-9]{20}", secret)
    assert id_of(secret) == tokens.list()[0].id


def test_only_its_hash_is_kept(tokens, tmp_path):
    _, secret = tokens.create("mine")
    text = (tmp_path / "tokens.json").read_text(encoding="utf-8")
    assert secret.rpartition(":")[2] not in text
    assert secret not in repr(tokens.list())


def test_a_token_is_recognised_by_another_process(tokens, tmp_path):
    token, secret = tokens.create("mine", ["logs"])
    other = TokenStore(tmp_path / "tokens.json")
    assert other.recognise(secret) == token
    assert other.recognise(secret[:-1] + ("a" if secret[-1] != "a" else "b")) is None
    assert other.recognise("sk-lm-") is None
    assert other.recognise("\ud800") is None
    tokens.revoke("mine")
    assert other.recognise(secret) is None


def test_names_and_permissions_can_be_edited(tokens):
    token, secret = tokens.create("mine")
    edited = tokens.edit("mine", new_name="yours", permissions=["metrics", "inference"])
    assert (edited.id, edited.name) == (token.id, "yours")
    assert edited.permissions == ("inference", "metrics")
    assert tokens.recognise(secret) == edited
    assert tokens.edit(token.id, new_name="yours") == edited


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb"])
def test_a_name_must_be_one(tokens, name):
    with pytest.raises(InvalidRequestError, match="is no name"):
        tokens.create(name)


def test_a_name_is_given_once(tokens):
    tokens.create("mine")
    tokens.create("other")
    with pytest.raises(InvalidRequestError, match="already"):
        tokens.create("mine")
    with pytest.raises(InvalidRequestError, match="already"):
        tokens.edit("other", new_name="mine")


@pytest.mark.parametrize("permissions", [[], ["all"]])
def test_permissions_must_exist(tokens, permissions):
    with pytest.raises(InvalidRequestError, match="there are: inference, models, logs, metrics"):
        tokens.create("mine", permissions)
    assert tokens.list() == []


def test_an_unknown_token_is_told_with_the_known_ones(tokens):
    tokens.create("mine")
    for change in (tokens.revoke, tokens.edit):
        with pytest.raises(TokenNotFoundError, match="'yours'; there are: mine"):
            change("yours")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tokens": [{"id": 1}]}'])
def test_a_damaged_file_opens_nothing_and_is_not_overwritten(tokens, tmp_path, text):
    _, secret = tokens.create("mine")
    (tmp_path / "tokens.json").write_text(text, encoding="utf-8")
    for use in (tokens.list, lambda: tokens.recognise(secret), lambda: tokens.create("other")):
        with pytest.raises(StoreError, match="damaged"):
            use()
    assert (tmp_path / "tokens.json").read_text(encoding="utf-8") == text


def test_changes_at_the_same_time_are_all_kept(tokens, tmp_path):
    barrier = threading.Barrier(8)

    def create(i):
        own = TokenStore(tmp_path / "tokens.json")
        barrier.wait()
        own.create(f"token {i}")

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {token.name for token in tokens.list()} == {f"token {i}" for i in range(8)}

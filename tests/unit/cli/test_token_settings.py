import json

import pytest
from typer.testing import CliRunner

from slipstream.base.errors import InvalidRequestError, TokenNotFoundError
from slipstream.cli.main import app
from slipstream.runtime.settings import ServerSettings
from slipstream.runtime.settings_store import SETTINGS, SettingsStore
from slipstream.runtime.tokens import TokenStore


def run(*args):
    return CliRunner().invoke(app, args, catch_exceptions=False)


def test_a_token_is_shown_once_and_works():
    result = run("token", "create", "mine")
    secret = result.stdout.strip()
    assert TokenStore().recognise(secret).permissions == ("inference", "models")
    assert "require_auth" in result.stderr
    listed = run("token", "ls").stdout
    assert "mine" in listed
    assert secret.rpartition(":")[2] not in listed + run("token", "ls", "--json").stdout


def test_a_token_as_json():
    made = json.loads(run("token", "create", "mine", "--allow", "logs", "--json").stdout)
    assert made["permissions"] == ["logs"]
    assert json.loads(run("token", "ls", "--json").stdout)[0].items() < made.items()


def test_a_token_is_edited_and_revoked():
    secret = run("token", "create", "mine").stdout.strip()
    run("token", "edit", "mine", "--name", "yours", "--allow", "metrics")
    assert TokenStore().recognise(secret).permissions == ("metrics",)
    with pytest.raises(InvalidRequestError, match="--yes"):
        run("token", "rm", "yours")
    assert json.loads(run("token", "rm", "yours", "--yes", "--json").stdout)["name"] == "yours"
    assert TokenStore().list() == []
    with pytest.raises(TokenNotFoundError):
        run("token", "rm", "yours", "--yes")


def test_an_edit_of_nothing_is_wrong_usage():
    assert run("token", "edit", "mine").exit_code == 2


def test_settings_are_listed_with_their_values():
    values = json.loads(run("settings", "ls", "--json").stdout)
    assert tuple(values) == SETTINGS
    assert values["port"] == 1234
    assert "default" in run("settings", "ls").stdout


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["port", "8080"], "port", 8080),
        (["require_auth", "true"], "require_auth", True),
        (["ttl_s", "null"], "ttl_s", None),
        (["ttl_s", "60.5"], "ttl_s", 60.5),
        (["host", "0.0.0.0"], "host", "0.0.0.0"),
        (["guardrails", "strict"], "guardrails", "strict"),
        (["cors_origins", "*"], "cors_origins", ("*",)),
        (["cors_origins", "http://a", "http://b"], "cors_origins", ("http://a", "http://b")),
        (["cors_origins", "[]"], "cors_origins", ()),
    ],
)
def test_a_setting_is_kept_until_it_is_reset(words, name, value):
    result = run("settings", "set", *words)
    assert result.exit_code == 0
    assert getattr(SettingsStore().current(), name) == value
    shown = json.loads(run("settings", "get", name, "--json").stdout)
    assert shown == (list(value) if isinstance(value, tuple) else value)
    run("settings", "reset", name)
    assert SettingsStore().current() == ServerSettings()


@pytest.mark.parametrize("words", [["port", "many"], ["prot", "1"], ["require_auth", "yes"]])
def test_what_is_no_setting_is_told(words):
    with pytest.raises(InvalidRequestError):
        run("settings", "set", *words)
    assert SettingsStore().kept() == {}


def test_one_value_for_what_is_no_list():
    assert run("settings", "set", "port", "1", "2").exit_code == 2

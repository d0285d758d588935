import json

import pytest

from slipstream.base.errors import InvalidRequestError, StoreError
from slipstream.runtime.settings import ServerSettings
from slipstream.runtime.settings_store import SettingsStore
from slipstream.runtime.tokens import TokenStore


@pytest.fixture
def path(slipstream_home):
    slipstream_home.mkdir()
    return slipstream_home / "settings.json"


def test_without_a_file_there_are_the_defaults(path):
    assert SettingsStore().current() == ServerSettings()
    assert not path.exists()


def test_the_file_holds_what_was_changed_and_is_read_by_the_next(path):
    changed = SettingsStore().change({"port": 8080, "ttl_s": None, "cors_origins": ["*"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "port": 8080,
        "ttl_s": None,
        "cors_origins": ["*"],
    }
    assert changed == SettingsStore().current()
    assert changed == ServerSettings(port=8080, ttl_s=None, cors_origins=("*",))
    SettingsStore().reset(["ttl_s", "host"])
    assert json.loads(path.read_text(encoding="utf-8")) == {"port": 8080, "cors_origins": ["*"]}


def test_a_running_server_sees_changes_below_its_own_options(path):
    store = SettingsStore(overrides={"port": 9000})
    assert store.current() == ServerSettings(port=9000)
    SettingsStore().change({"port": 8080, "require_auth": True})
    assert store.current() == ServerSettings(port=9000, require_auth=True)


@pytest.mark.parametrize(
    "changes",
    [{"port": 0}, {"port": "80"}, {"require_auth": 1}, {"prot": 1}, {"port": 80, "ttl_s": -1}],
)
def test_a_change_that_is_not_allowed_changes_nothing(path, changes):
    with pytest.raises(InvalidRequestError):
        SettingsStore().change(changes)
    assert not path.exists()


def test_a_value_that_is_wrong_is_named(path):
    with pytest.raises(InvalidRequestError, match="port is 99999; it must be between 1 and 65535"):
        SettingsStore().change({"port": 99999})
    with pytest.raises(InvalidRequestError, match="there is no setting 'prot'"):
        SettingsStore().reset(["prot"])


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"port": 1234,}'])
def test_a_broken_file_is_put_aside_and_told(path, text, caplog):
    path.write_text(text, encoding="utf-8")
    store = SettingsStore()
    target = store.mend()
    assert target.read_text(encoding="utf-8") == text
    assert str(target) in caplog.text
    assert store.current() == ServerSettings()
    assert store.mend() is None


def test_what_is_good_of_a_broken_file_is_kept(path):
    path.write_text('{"port": 8080, "host": 5, "from_tomorrow": [1]}', encoding="utf-8")
    store = SettingsStore()
    assert store.mend() is not None
    assert store.current() == ServerSettings(port=8080)
    assert json.loads(path.read_text(encoding="utf-8"))["from_tomorrow"] == [1]


@pytest.mark.parametrize("text", ["{", '{"require_auth": "yes"}'])
def test_a_broken_file_does_not_open_a_server_that_has_tokens(path, text):
    TokenStore().create("mine")
    path.write_text(text, encoding="utf-8")
    SettingsStore().mend()
    assert SettingsStore().current().require_auth


def test_an_entry_that_is_no_setting_is_told_and_kept(path, caplog):
    path.write_text('{"prot": 1}', encoding="utf-8")
    assert SettingsStore().mend() is None
    assert "no setting 'prot'" in caplog.text
    SettingsStore().change({"port": 80})
    assert json.loads(path.read_text(encoding="utf-8")) == {"port": 80, "prot": 1}


def test_a_file_broken_while_the_server_runs_changes_nothing(path, caplog):
    store = SettingsStore()
    store.change({"require_auth": True})
    assert store.current().require_auth
    path.write_text("{", encoding="utf-8")
    assert store.current().require_auth
    assert store.current().require_auth
    assert caplog.text.count("stay as they are") == 1


def test_a_change_of_a_broken_file_keeps_a_copy(path):
    path.write_text("{", encoding="utf-8")
    SettingsStore().change({"port": 80})
    assert len(list(path.parent.glob("settings.json.damaged-*"))) == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError):
        SettingsStore(tmp_path / "file" / "settings.json").change({"port": 80})

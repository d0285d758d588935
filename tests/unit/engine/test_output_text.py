"""Text of an output: characters, stop strings, and that the cuts between pieces do not matter."""

import random

import pytest

from slipstream.engine.output_text import OutputText


def read(pieces, stop=()):
    """What a reader gets: the deltas, and the stop string."""
    output = OutputText(stop)
    deltas = []
    for piece in pieces:
        deltas.append(output.push(piece))
        if output.stop_string is not None:
            return deltas, output.stop_string
    deltas.append(output.finish())
    return deltas, None


def first_completed(text, stop):
    """The same by the definition: read character by character, stop at the first stop string that is complete."""
    for end in range(len(text) + 1):
        complete = [string for string in stop if text[:end].endswith(string)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


def test_plain_pieces_pass_at_once():
    assert read([b"Hello", b"", b" world"])[0] == ["Hello", "", " world", ""]


def test_half_a_character_waits_for_the_rest():
    data = "a🙂b".encode()
    assert read([data[:2], data[2:4], data[4:]])[0] == ["a", "", "🙂b", ""]


def test_half_a_character_at_the_end_becomes_a_replacement():
    assert read([b"ok", "日".encode()[:2]])[0] == ["ok", "", "\ufffd"]


def test_bytes_that_are_no_utf8_become_replacements():
    assert "".join(read([b"a\xffb", b"\xc3", b"("])[0]) == "a\ufffdb\ufffd("


def test_a_stop_string_ends_the_text_and_is_not_in_it():
    assert read([b"one ST", b"OP two"], ("STOP",)) == (["one ", ""], "STOP")


def test_a_possible_stop_string_is_held_back_and_released_when_it_is_none():
    output = OutputText(("STOP",))
    assert output.push(b"a S") == "a "
    assert output.push(b"T") == ""
    assert output.push(b"A") == "STA"
    assert output.stop_string is None


def test_what_is_held_back_is_released_at_the_end():
    assert read([b"a STO"], ("STOP",)) == (["a ", "STO"], None)


def test_a_stop_string_may_begin_inside_a_failed_one():
    assert "".join(read([b"aa", b"ab", b"c"], ("aab",))[0]) == "a"


def test_the_stop_string_that_is_complete_first_counts():
    assert read([b"xabcd"], ("abcd", "bc")) == (["xa"], "bc")


def test_of_those_complete_at_the_same_character_the_longest_counts():
    assert read([b"xabc"], ("c", "abc", "bc")) == (["x"], "abc")


def test_a_stop_string_of_several_bytes_a_character_is_found_across_pieces():
    data = "ja 日本 nein".encode()
    deltas, found = read([data[i : i + 1] for i in range(len(data))], ("日本",))
    assert ("".join(deltas), found) == ("ja ", "日本")


@pytest.mark.parametrize("stop", [("-",), (".", "*]"), ("^", "]", "\\")])
def test_stop_strings_with_a_meaning_in_patterns_are_plain_text(stop):
    text = f"abc{stop[-1]}def"
    assert read([text.encode()], stop) == (["abc"], stop[-1])


def test_text_never_depends_on_the_cuts_between_pieces():
    rng = random.Random(7)
    alphabet = "aab\n.é日🙂"
    for _ in range(600):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(30)))
        stop = tuple(
            "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 5)))
            for _ in range(rng.randrange(4))
        )
        data = text.encode()
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(12)))
        pieces = [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        deltas, found = read(pieces, stop)
        assert ("".join(deltas), found) == first_completed(text, stop), (pieces, stop)


def test_broken_bytes_decode_the_same_in_pieces_as_at_once():
    rng = random.Random(8)
    for _ in range(600):
        data = bytes(rng.choice(b"a\xe6\x97\xa5\xf0\x9f\xff\xc3") for _ in range(rng.randrange(12)))
        pieces = [data[i : i + 1] for i in range(len(data))]
        assert "".join(read(pieces)[0]) == data.decode("utf-8", "replace")


def test_text_shown_never_has_to_be_taken_back():
    rng = random.Random(9)
    for _ in range(300):
        text = "".join(rng.choice("ab") for _ in range(20))
        stop = ("abba", "bbb")
        whole, _ = first_completed(text, stop)
        shown = ""
        output = OutputText(stop)
        for char in text:
            shown += output.push(char.encode())
            assert whole.startswith(shown)
            if output.stop_string:
                break

"""What a GBNF grammar can begin with."""

from __future__ import annotations

import pytest

from slipstream.chat.gbnf_words import first_words


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        ('root ::= "a" "b"', ("ab",)),
        ('root ::= "a" | "b" "c"', ("a", "bc")),
        ('root ::= ("a" | "b") "c"', ("ac", "bc")),
        ('root ::= one two\none ::= "x" | "y"\ntwo ::= " z"', ("x z", "y z")),
        ('root ::= "a" [0-9] "b"', ("a",)),
        ('root ::= "a" "b"? "c"', ("a",)),
        ('root ::= "a" ("b" | "c")* "d"', ("a",)),
        ('root ::= ("ab" "c")+ "d"', ("abc",)),
        ('root ::= "a" "b"{0,3}', ("a",)),
        ('root ::= "a" space "b"\nspace ::= | " "', ("a",)),
        ('root ::= "a" "b" | "a" [x]', ("a",)),
        (r'root ::= "\"q\"" ":\n" [x]', ('"q":\n',)),
        ('root ::= "a" root | "b"', None),
        ('root ::= [a] "b"', ()),
        ('root ::= "a" | [b]', ()),
        ('root ::= "a"?', ()),
        ("root ::= missing", ()),
        ('other ::= "a"', ()),
        ("root ::= " + " ".join('("a" | "b")' for _ in range(20)), ()),
    ],
)
def test_first_words(grammar: str, expected: tuple[str, ...] | None) -> None:
    found = first_words(grammar)
    if expected is None:  # endless; only that it ends
        assert all(word.startswith(("a", "b")) for word in found)
    else:
        assert found == expected

"""How the output and the end of a process are put into words."""

import logging

import pytest

from slipstream.runtime.engine_process import describe_exit, read_line

ABORT = [
    "llama_decode: something",
    "/src/ggml.c:123: GGML_ASSERT(n > 0) failed",
    "Fatal Python error: Aborted",
    "Thread 0x1 (most recent call first):",
    *(f'  File "/x.py", line {i} in step' for i in range(30)),
]


@pytest.mark.parametrize(
    ("code", "lines", "text"),
    [
        (-9, ["INFO x: loaded"], "was killed by SIGKILL"),
        (-6, ABORT, "aborted (SIGABRT): /src/ggml.c:123: GGML_ASSERT(n > 0) failed"),
        (134, [], "ended with exit code 134 (abort)"),
        (-11, ["Fatal Python error: Segmentation fault"],
         "was killed by SIGSEGV: Fatal Python error: Segmentation fault"),
        (1, ["a", "b", "c", "d"], "ended with exit code 1: b | c | d"),
        (0, ["a"], "ended with exit code 0"),
        (-99, [], "was killed by signal 99"),
    ],
)  # fmt: skip
def test_an_exit_is_described_with_the_lines_that_tell_why(code, lines, text):
    assert describe_exit(code, lines) == text


def test_lines_of_our_logging_keep_their_level():
    assert read_line("ERROR slipstream.engine.core: oh", True) == (
        logging.ERROR,
        "slipstream.engine.core: oh",
    )
    assert read_line("DEBUG slipstream: x", False)[0] == logging.DEBUG


@pytest.mark.parametrize("line", ["parse: error parsing grammar: x", "ERROR x: y", "a failed"])
def test_other_lines_are_shown_while_loading_and_for_debugging_after_it(line):
    assert read_line(line, False) == (logging.WARNING, line)
    assert read_line(line, True) == (logging.DEBUG, line)


@pytest.mark.parametrize("line", [*ABORT[1:], "terminate called after", "  what():  bad_alloc"])
def test_last_words_are_shown_at_any_time(line):
    assert read_line(line, True) == (logging.WARNING, line)

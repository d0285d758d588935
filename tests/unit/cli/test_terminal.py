import io

from slipstream.cli.terminal import show_load, writer


def test_control_characters_do_not_reach_a_terminal():
    out = io.StringIO()
    out.isatty = lambda: True
    writer(out)("a\x1b]0;title\x07\tb\n\x9bc")
    assert out.getvalue() == "a]0;title\tb\nc"


def test_output_to_a_file_is_as_it_is():
    out = io.StringIO()
    writer(out)("a\x1bb")
    assert out.getvalue() == "a\x1bb"


def test_the_load_line_is_rewritten_and_cleared_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    show_load("demo", 0.5)
    show_load("demo", 1.0)
    assert capsys.readouterr().err == "\r\x1b[Kloading demo 50%\r\x1b[K"


def test_no_progress_in_a_log(capsys):
    show_load("demo", 0.5)
    assert capsys.readouterr().err == ""

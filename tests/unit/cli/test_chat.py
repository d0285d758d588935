import io

import pytest
from typer.testing import CliRunner

from slipstream.base.errors import ContextLengthError
from slipstream.base.sampling import SamplingParams
from slipstream.base.types import FinishReason, OutputDelta, Reasoning, Usage
from slipstream.cli import chat as chat_module
from slipstream.cli.conversation import Conversation
from slipstream.cli.main import app

USAGE = Usage(num_prompt_tokens=3, num_output_tokens=2)


class FakeLLM:
    """Answers every question with the same pieces; an exception among them is raised."""

    def __init__(self, *pieces):
        self.pieces = pieces
        self.asked = []
        self.closed_streams = 0
        self.closed = False

    def chat(self, messages, *, sampling, stream, **options):
        assert stream
        self.options = options
        self.asked.append((messages, sampling))
        try:
            for i, piece in enumerate(self.pieces):
                if isinstance(piece, BaseException):
                    raise piece
                last = i == len(self.pieces) - 1
                thought = piece[1:] if piece.startswith("~") else ""
                yield OutputDelta(
                    "r",
                    "" if thought else piece,
                    reasoning=thought,
                    finish_reason=FinishReason.STOP if last else None,
                    usage=USAGE if last else None,
                )
        finally:
            self.closed_streams += 1

    def close(self):
        self.closed = True


@pytest.fixture
def run(monkeypatch):
    def run(*args, llm, stdin=None):
        monkeypatch.setattr(chat_module, "_load", lambda *_: llm)
        return CliRunner().invoke(app, ["chat", *args], input=stdin, catch_exceptions=False)

    return run


def converse(llm, *lines, **kwargs):
    """Type lines, then Ctrl-D; an exception among the lines is raised by the reader."""
    conversation = Conversation()
    remaining = list(lines)

    def read_line():
        if not remaining:
            raise EOFError
        line = remaining.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    chat_module._converse(llm, conversation, SamplingParams(), read_line, stats=False, **kwargs)
    return conversation


def test_one_shot_prints_just_the_answer(run):
    llm = FakeLLM("Hel", "lo.")
    result = run("-p", "Hi", "--system", "Be kind.", llm=llm, stdin="")
    assert (result.exit_code, result.stdout) == (0, "Hello.\n")
    messages, _ = llm.asked[0]
    assert [m["content"] for m in messages] == ["Be kind.", "Hi"]
    assert llm.closed


def test_text_on_stdin_follows_the_prompt(run):
    llm = FakeLLM("ok")
    run("-p", "Summarize:", llm=llm, stdin="a long text\n")
    assert llm.asked[0][0][-1]["content"] == "Summarize:\n\na long text"


def test_text_on_stdin_alone_is_the_prompt(run):
    llm = FakeLLM("ok")
    assert run(llm=llm, stdin="What?\n").stdout == "ok\n"
    assert llm.asked[0][0][-1]["content"] == "What?"


def test_no_question_is_wrong_usage(run):
    assert run(llm=FakeLLM(), stdin="").exit_code == 2


def test_sampling_options_reach_the_model_and_the_rest_is_default(run):
    llm = FakeLLM("ok")
    run("-p", "x", "--temperature", "0", "--max-tokens", "5", "--seed", "7", llm=llm, stdin="")
    assert llm.asked[0][1] == SamplingParams(temperature=0.0, max_tokens=5, seed=7)


def test_stats_go_to_stderr(run):
    result = run("-p", "x", "--stats", llm=FakeLLM("ok"), stdin="")
    assert result.stdout == "ok\n"
    assert "answer 2 tokens" in result.stderr


def test_the_conversation_remembers_its_turns():
    llm = FakeLLM("b")
    converse(llm, "a", "c")
    assert [m["content"] for m in llm.asked[1][0]] == ["a", "b", "c"]


def test_ctrl_c_ends_the_answer_and_not_the_program(capsys):
    llm = FakeLLM("part", KeyboardInterrupt())
    conversation = converse(llm, "a")
    assert conversation.turns[-1] == {"role": "assistant", "content": "part"}
    assert llm.closed_streams == 1
    assert "[interrupted]" in capsys.readouterr().out


def test_an_answer_interrupted_before_it_began_is_not_remembered():
    assert converse(FakeLLM(KeyboardInterrupt()), "a").turns == []


def test_ctrl_c_at_the_prompt_asks_again():
    llm = FakeLLM("b")
    converse(llm, KeyboardInterrupt(), "a")
    assert len(llm.asked) == 1


def test_ctrl_c_of_one_shot_ends_the_program(capsys):
    with pytest.raises(KeyboardInterrupt):
        chat_module._answer(
            FakeLLM("x", KeyboardInterrupt()), Conversation(), "a", SamplingParams(), io.StringIO()
        )


def test_an_error_is_told_and_the_conversation_goes_on(capsys):
    llm = FakeLLM(ContextLengthError("too long"))
    conversation = converse(llm, "a", "b")
    assert len(llm.asked) == 2
    assert conversation.turns == []
    assert capsys.readouterr().err.count("too long (/reset starts anew)") == 2


def test_commands_and_empty_lines_ask_nothing(capsys):
    llm = FakeLLM("b")
    converse(llm, "", "  ", "/stats", "/exit", "never read")
    assert llm.asked == []


def test_a_space_before_the_slash_makes_it_a_message():
    llm = FakeLLM("b")
    converse(llm, " /etc is what?")
    assert llm.asked[0][0][-1]["content"] == "/etc is what?"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(llm, out):
    chat_module._answer(llm, Conversation(), "a", SamplingParams(), out, interruptible=True)
    return out.getvalue()


def test_a_terminal_shows_reasoning_dimmed_and_apart():
    assert shown(FakeLLM("~Let me ", "~see.", "4", "2"), Terminal()) == (
        "\033[2mLet me see.\033[0m\n\n42\n"
    )
    cut = shown(FakeLLM("~Let me", KeyboardInterrupt()), Terminal())
    assert cut == "\033[2mLet me\033[0m\n\n [interrupted]\n"
    assert shown(FakeLLM("~Hm", ""), Terminal()) == "\033[2mHm\033[0m\n\n\n"
    assert shown(FakeLLM("~\033[31mHm", "4"), Terminal()) == "\033[2m[31mHm\033[0m\n\n4\n"


def test_elsewhere_there_is_only_the_answer():
    assert shown(FakeLLM("~Hm.", "42"), io.StringIO()) == "42\n"


def test_how_much_to_think_reaches_the_model_if_given(run):
    llm = FakeLLM("ok")
    run("-p", "x", llm=llm, stdin="")
    assert llm.options == {}
    run("-p", "x", "--reasoning", "off", llm=llm, stdin="")
    assert llm.options == {"reasoning": Reasoning(effort="off", is_required=True)}

import pytest

from slipstream.base.types import Usage
from slipstream.cli.conversation import HELP, Conversation, describe


def test_messages_are_system_turns_and_the_question():
    conversation = Conversation(system="Be brief.")
    conversation.record("a", "b", None)
    assert [(m["role"], m["content"]) for m in conversation.messages("c")] == [
        ("system", "Be brief."),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert len(conversation.turns) == 2


def test_reset_keeps_the_system_prompt():
    conversation = Conversation(system="s")
    conversation.record("a", "b", Usage())
    assert "anew" in conversation.command("/reset")
    assert [m["role"] for m in conversation.messages("c")] == ["system", "user"]
    assert conversation.command("/stats") == "There is no answer yet."


def test_system_sets_and_removes():
    conversation = Conversation()
    conversation.command("/system  You are a cat. ")
    assert conversation.system == "You are a cat."
    conversation.command("/system")
    assert conversation.system == ""


@pytest.mark.parametrize("line", ["/exit", "/quit", "/bye"])
def test_exit_commands_leave(line):
    assert Conversation().command(line) is None


def test_an_unknown_command_is_told():
    assert "no command /foo" in Conversation().command("/foo bar")


def test_help_names_every_command():
    for name in ("/help", "/reset", "/system", "/stats", "/exit"):
        assert name in HELP
    assert Conversation().command("/help") == HELP


def test_stats_of_an_interrupted_answer_are_those_before():
    conversation = Conversation()
    conversation.record("a", "b", Usage(num_output_tokens=7))
    conversation.record("c", "d", None)
    assert "answer 7 tokens" in conversation.command("/stats")


def test_speeds_leave_out_cached_tokens_and_the_first_token():
    usage = Usage(
        num_prompt_tokens=30,
        num_cached_tokens=10,
        num_output_tokens=11,
        queue_s=0.5,
        prefill_s=2.0,
        decode_s=4.0,
    )
    assert describe(usage) == (
        "prompt 30 tokens (10 cached, 10.0 tokens/s), answer 11 tokens (4.00 s, 2.5 tokens/s), "
        "first token after 2.50 s"
    )


def test_no_speed_where_no_time_passed():
    assert "tokens/s" not in describe(Usage(num_prompt_tokens=1, num_output_tokens=1))

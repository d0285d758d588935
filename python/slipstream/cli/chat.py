"""`slipstream chat`: a conversation with a model of the server that runs, or with one in this process."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypedDict

import typer

from slipstream.base.errors import SlipstreamError
from slipstream.base.limits import MAX_CONTEXT_LENGTH, MAX_THREADS
from slipstream.cli.conversation import Conversation, describe
from slipstream.cli.options import UrlOption, is_given
from slipstream.cli.terminal import show_load, thought_writer, writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.base.sampling import SamplingParams
    from slipstream.base.types import Reasoning, Usage
    from slipstream.cli.remote_model import RemoteModel
    from slipstream.llm import LLM

    ChatModel = LLM | RemoteModel

PROMPT = "> "


class _Asked(TypedDict, total=False):
    """What is asked of an answer besides its messages and sampling; see llm.ChatOptions."""

    reasoning: Reasoning


def chat(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Key of a model, path of a .gguf file, or `demo`. Without: what the server has loaded, else `demo`."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", help="Ask this, print the answer, stop. Text on stdin follows it."
        ),
    ] = None,
    system: Annotated[str, typer.Option("--system", "-s", help="System prompt.")] = "",
    temperature: Annotated[
        float | None, typer.Option(help="0 always takes the most likely token.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer; until the context is full if not given."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed, the same answers.")
    ] = None,
    context_length: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_CONTEXT_LENGTH,
            help="Tokens of the KV cache; 0: the model's own, at most 8192.",
        ),
    ] = 0,
    threads: Annotated[
        int, typer.Option(min=0, max=MAX_THREADS, help="CPU threads; 0: the physical cores.")
    ] = 0,
    reasoning: Annotated[
        str | None,
        typer.Option(
            help="How much the model thinks: off, on, low, medium or high; its own default if not given."
        ),
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Token counts and speed on stderr.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Load the model in this process, whatever server runs.")
    ] = False,
    url: UrlOption = None,
) -> None:
    """Chat with a model. Text on stdin, when it is no terminal, is asked at once."""
    from slipstream.base.sampling import SamplingParams
    from slipstream.base.types import Reasoning

    given: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    sampling = SamplingParams(**{k: value for k, value in given.items() if value is not None})
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    question = "\n\n".join(part for part in (prompt, piped.strip()) if part)
    interactive = prompt is None and sys.stdin is not None and sys.stdin.isatty()
    if not interactive and not question:
        message = "there is no question: give one with -p or on stdin"
        raise typer.BadParameter(message, param_hint="--prompt")
    effort = None if reasoning is None else Reasoning(effort=reasoning, is_required=True)
    conversation = Conversation(system=system, reasoning=effort)
    is_own = local or bool(context_length or threads) or _is_file(model)
    if is_own and is_given(context, "url"):
        message = "--url is for models of a server; --local, --context-length, --threads and files are not"
        raise typer.BadParameter(message, param_hint="--url")
    remote = None if is_own else _remote(model, url)
    name = remote.name if remote is not None else model or "demo"
    with closing(remote or _load(name, context_length, threads)) as llm:
        if not interactive:
            usage = _answer(llm, conversation, question, sampling, sys.stdout)
            if stats:
                typer.echo(describe(usage), err=True)
            return
        typer.echo(f"{Path(name).stem if is_own else name}: /help lists the commands.", err=True)
        _converse(llm, conversation, sampling, _line_reader(), stats=stats)


def _is_file(model: str | None) -> bool:
    return model is not None and (model.endswith(".gguf") or Path(model).is_file())


def _remote(model: str | None, url: str | None) -> RemoteModel | None:
    """Return the model of the server that is meant, None for one in this process.

    That is where no server runs, and, unless `url` names one, where none of its models is named or loaded. `demo` is
    the server's if it has that loaded.
    """
    from slipstream.cli.remote_model import RemoteModel, loaded_models
    from slipstream.cli.server_client import find_server

    client = find_server(url)
    if client is None:
        return None
    if model is not None and (model != "demo" or url is not None):
        return RemoteModel(client, model)
    loaded = loaded_models(client)
    wanted = loaded[:1] if model is None else [one for one in loaded if one == model]
    if wanted or url is not None:
        return RemoteModel(client, wanted[0] if wanted else "")
    client.close()
    return None


def _load(model: str, context_length: int, threads: int) -> LLM:
    from functools import partial

    from slipstream.llm import LLM

    progress = partial(show_load, Path(model).stem)
    return LLM(model, progress=progress, context_length=context_length, threads=threads, parallel=1)


def _line_reader() -> Callable[[], str]:
    """Return a function that asks for a line, with editing and a history that outlives the program.

    The function raises EOFError on Ctrl-D and KeyboardInterrupt on Ctrl-C.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    from slipstream.base.config import home

    file = home() / "chat_history"
    file.parent.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(history=FileHistory(str(file)))
    return lambda: session.prompt(PROMPT)


def _converse(
    llm: ChatModel,
    conversation: Conversation,
    sampling: SamplingParams,
    read_line: Callable[[], str],
    *,
    stats: bool,
) -> None:
    """Ask for lines and answer them until the user leaves."""
    while True:
        try:
            line = read_line().rstrip()
        except EOFError:
            return
        except KeyboardInterrupt:  # drops the line that was being typed
            continue
        if not line.strip():
            continue
        if line.startswith("/"):
            shown = conversation.command(line)
            if shown is None:
                return
            typer.echo(shown)
            continue
        try:
            usage = _answer(
                llm, conversation, line.strip(), sampling, sys.stdout, interruptible=True
            )
        except KeyboardInterrupt:  # came when the answer had just ended
            continue
        except SlipstreamError as error:
            typer.echo(f"{error} (/reset starts anew)", err=True)
            continue
        if stats and usage is not None:
            typer.echo(describe(usage), err=True)


def _answer(
    llm: ChatModel,
    conversation: Conversation,
    question: str,
    sampling: SamplingParams,
    out: TextIO,
    *,
    interruptible: bool = False,
) -> Usage | None:
    """Stream the answer to `out` and record it.

    Args:
        llm: Answers.
        conversation: Gets the question and the answer; unchanged if the request fails.
        question: Of the user.
        sampling: How.
        out: Where the text goes as it comes.
        interruptible: Ctrl-C ends the answer, and what came so far stays in the conversation. Else it is raised.

    Returns:
        Usage of a whole answer, None of an interrupted one.
    """
    write, think = writer(out), thought_writer(out)
    text: list[str] = []
    usage = None
    options: _Asked = {}
    if conversation.reasoning is not None:
        options["reasoning"] = conversation.reasoning
    stream = llm.chat(conversation.messages(question), sampling=sampling, stream=True, **options)
    try:
        with closing(stream):  # which aborts the request
            for delta in stream:
                think(delta.reasoning, is_over=bool(delta.text))
                text.append(delta.text)
                write(delta.text)
                usage = delta.usage or usage
        think("", is_over=True)
    except KeyboardInterrupt:
        if not interruptible:
            raise
        think("", is_over=True)
        write(" [interrupted]")
    write("\n")
    if any(text):
        conversation.record(question, "".join(text), usage)
    return usage

"""The official openai client against a real server with the demo model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import ServerProcess

pytestmark = pytest.mark.e2e
ASK = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a very long story about a river."}]
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as value:
        yield value


@pytest.fixture(scope="module")
def model(server: ServerProcess) -> str:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        return client.models.list().data[0].id


def own_question(client: openai.OpenAI, model: str, text: str) -> list[dict[str, str]]:
    """A conversation for one test alone, already in the model's cache.

    llama.cpp's kernels for one row and for many differ in their rounding, and a quantised model turns that into a few
    hundredths in a log-probability. So answers are the same only if their prompts come from the same cells.
    """
    messages = [{"role": "user", "content": text}]
    client.chat.completions.create(model=model, messages=messages, max_tokens=1)
    return messages


def test_models_can_be_listed_and_retrieved(client: openai.OpenAI, model: str) -> None:
    assert client.models.retrieve(model).id == model


def test_chat_answers(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=ASK, **GREEDY)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.model == model
    assert answer.system_fingerprint.startswith("slipstream-")
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_text_is_the_plain_answer_of_a_greedy_request(
    client: openai.OpenAI, model: str
) -> None:
    question = own_question(client, model, "What is the highest mountain?")
    plain = client.chat.completions.create(model=model, messages=question, **GREEDY)
    with client.chat.completions.create(
        model=model,
        messages=question,
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    ) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[-1].choices == []
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason


def test_stream_helper_gathers_the_answer(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        model=model, messages=ASK, stop=[" "], max_tokens=64
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "chunk" in kinds
    assert final.choices[0].finish_reason == "stop"
    assert " " not in final.choices[0].message.content


def test_async_client_streams_several_answers_at_once(server: ServerProcess, model: str) -> None:
    async def ask(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model=model, messages=ASK, stream=True, **GREEDY
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(ask(client) for _ in range(4)))

    assert all(asyncio.run(main()))


def test_more_requests_than_run_at_once_are_all_answered(server: ServerProcess, model: str) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            calls = (
                client.chat.completions.create(
                    model=model, messages=ASK, temperature=0, max_tokens=4
                )
                for _ in range(12)
            )
            return [answer.choices[0].finish_reason for answer in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == ["length"] * 12


def test_max_tokens_cuts_with_length(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=STORY, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_stop_string_ends_the_answer_and_is_not_part_of_it(
    client: openai.OpenAI, model: str
) -> None:
    question = own_question(client, model, "What is the longest river?")
    plain = client.chat.completions.create(model=model, messages=question, **GREEDY)
    text = plain.choices[0].message.content
    stop = text[8:14]  # in the middle of tokens
    cut = client.chat.completions.create(model=model, messages=question, stop=[stop], **GREEDY)
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == text[: text.index(stop)]


def test_n_gives_choices_that_differ(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=STORY, n=3, temperature=1.5, seed=1, max_tokens=16
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage.completion_tokens == 48


def test_same_seed_gives_the_same_answer(client: openai.OpenAI, model: str) -> None:
    question = own_question(client, model, "Tell me of a king and his two sons.")

    def ask(seed: int) -> str:
        answer = client.chat.completions.create(
            model=model, messages=question, temperature=1.2, seed=seed, max_tokens=8
        )
        return answer.choices[0].message.content

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(3)}) > 1


def test_chat_logprobs_match_the_text(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, logprobs=True, top_logprobs=3, **GREEDY
    )
    tokens = answer.choices[0].logprobs.content
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert text.startswith(answer.choices[0].message.content)
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0  # greedy takes the best
        assert sum(2.718281828**top.logprob for top in token.top_logprobs) < 1.001


def test_logit_bias_changes_what_is_taken(client: openai.OpenAI, model: str) -> None:
    plain = client.chat.completions.create(
        model=model, messages=ASK, logprobs=True, temperature=0, max_tokens=1
    )
    word = plain.choices[0].message.content
    bias = {str(token_id): 100 for token_id in range(20, 30)}
    forced = client.chat.completions.create(
        model=model, messages=ASK, logit_bias=bias, temperature=0, max_tokens=1
    )
    assert forced.choices[0].message.content != word


def test_completion_continues_text_and_echoes_it(client: openai.OpenAI, model: str) -> None:
    prompt = "The capital of France is"
    client.completions.create(model=model, prompt=prompt, max_tokens=1)  # see own_question
    plain = client.completions.create(model=model, prompt=prompt, **GREEDY)
    echoed = client.completions.create(model=model, prompt=prompt, echo=True, **GREEDY)
    assert "Paris" in plain.choices[0].text
    assert echoed.choices[0].text == prompt + plain.choices[0].text


def test_completion_takes_several_prompts(client: openai.OpenAI, model: str) -> None:
    prompts = ["One, two,", "Red, green,"]
    answer = client.completions.create(model=model, prompt=prompts, n=2, **GREEDY)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(choice.text for choice in answer.choices)
    assert answer.choices[0].text != answer.choices[2].text


def test_completion_streams_with_logprobs(client: openai.OpenAI, model: str) -> None:
    with client.completions.create(
        model=model, prompt="One, two,", stream=True, logprobs=2, **GREEDY
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    tokens = [
        token
        for chunk in chunks
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.tokens
    ]
    assert len(tokens) == GREEDY["max_tokens"]


def test_second_turn_finds_its_prompt_in_the_cache(client: openai.OpenAI, model: str) -> None:
    question = [{"role": "user", "content": "Count to ten, please, and mind the order of things."}]
    first = client.chat.completions.create(model=model, messages=question, **GREEDY)
    again = [
        *question,
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "Once more."},
    ]
    second = client.chat.completions.create(model=model, messages=again, **GREEDY)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"max_tokens": -5}, openai.BadRequestError, "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"n": 100}, openai.BadRequestError, "n"),
        ({"logit_bias": {"99999999": 1}}, openai.BadRequestError, "logit_bias"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_request_raises_the_clients_own_error(
    client: openai.OpenAI, model: str, fields: dict, error: type, param: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(
            **{"model": model, "messages": ASK, "max_tokens": 4, "stream": stream, **fields}
        )
    assert caught.value.param == param


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_longer_than_the_context_is_refused(
    client: openai.OpenAI, model: str, stream: bool
) -> None:
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=long, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_token_ids_out_of_range_are_refused(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=model, prompt=[1, 2, 10_000_000], max_tokens=1)


def test_leaving_a_stream_frees_its_sequence(
    server: ServerProcess, client: openai.OpenAI, model: str
) -> None:
    def running() -> float:
        return server.metric("slipstream_engine_running")

    wait_until(lambda: running() == 0, "earlier requests to end")
    with client.chat.completions.create(
        model=model, messages=STORY, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
        wait_until(lambda: running() == 1, "the request to run")
    wait_until(lambda: running() == 0, "the sequence to be freed", timeout_s=2)


def test_cancelling_a_plain_request_frees_its_sequence(server: ServerProcess, model: str) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            call = client.chat.completions.create(
                model=model, messages=STORY, extra_body={"ignore_eos": True}
            )
            task = asyncio.ensure_future(call)
            running = lambda: server.metric("slipstream_engine_running")  # noqa: E731
            await asyncio.to_thread(wait_until, lambda: running() == 1, "the request to run")
            task.cancel()
            await asyncio.to_thread(wait_until, lambda: running() == 0, "it to be freed", 2)

    asyncio.run(main())

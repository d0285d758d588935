"""Images in prompts, on tiny random vision models: what the engine says is what plain calls in order say."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from slipstream import LLM, GenerationSpec, SamplingParams, _core
from slipstream.base.errors import ContextLengthError, InvalidRequestError, ModelLoadError
from tests.support.tiny_gguf import write_tiny_model
from tests.support.tiny_vision import KINDS, png, write_projector, write_tiny_vision
from tests.support.together import together

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slipstream import GenerationResult

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0)
IMAGE, OTHER = png(64, 48, seed=1), png(64, 48, seed=2)


def image_part(image: bytes) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def ask(*parts: str | bytes) -> list[dict[str, Any]]:
    content = [
        image_part(part) if isinstance(part, bytes) else {"type": "text", "text": part}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tiny_vision(tmp_path / "vision", request.param)


@pytest.fixture
def llm(model: Path) -> Iterator[LLM]:
    with LLM(model, threads=1, context_length=512, speculation="off") as value:
        yield value


def reference(
    path: Path, text: str, images: list[bytes], num_tokens: int
) -> tuple[list[int], list[float]]:
    """Greedy output and its log-probabilities, computed part by part with nothing of the engine."""
    model = _core.Model(str(path))
    projector = _core.Projector(model, str(path.parent / "mmproj-tiny.gguf"), "<IMAGE>", 1)
    context = _core.Context(model, n_ctx=512, n_threads=1)
    position = 0
    for part in projector.tokenize(text, images, True):
        if isinstance(part, list):
            positions = np.arange(position, position + len(part), dtype=np.int32)
            context.decode(np.array(part, np.int32), positions)
            position += len(part)
        else:
            projector.encode(part)
            projector.decode(context, 0, position, part)
            position += part.n_positions
    tokens, logprobs = [], []
    for _ in range(num_tokens):
        row = context.all_logits()[-1].astype(np.float64)
        tokens.append(int(row.argmax()))
        logprobs.append(float(row.max() - np.log(np.exp(row).sum())))
        context.decode(np.array([tokens[-1]], np.int32), np.array([position], np.int32))
        position += 1
    return tokens, logprobs


def logprobs_of(answer: GenerationResult) -> list[float]:
    return [token.logprob for token in answer.logprobs]


def assert_same_up_to_rounding(left: GenerationResult, right: GenerationResult) -> None:
    """Other batches round otherwise: two tokens that are as likely may change places, and all after them."""
    assert len(left.token_ids) == len(right.token_ids)
    for one, other in zip(left.logprobs, right.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=0.02)
        if one.token_id != other.token_id:
            assert one.top[0][2] - one.top[1][2] < 0.02
            return


def chatml(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def test_the_engine_says_what_plain_calls_say(model: Path, llm: LLM) -> None:
    text = chatml("look<IMAGE>and<IMAGE>well")
    answers = []
    for images in ([IMAGE, OTHER], [OTHER, IMAGE]):
        answer = llm.chat(ask("look", images[0], "and", images[1], "well"), GREEDY)
        tokens, logprobs = reference(model, text, images, 12)
        assert answer.token_ids == tokens
        assert logprobs_of(answer) == pytest.approx(logprobs, abs=2e-4)
        answers.append(answer)
    seen = np.abs(np.subtract(*map(logprobs_of, answers))).max()
    assert seen > 2e-3  # the images make a difference, so the test can fail


def test_an_image_is_found_in_the_cache_and_another_is_not(llm: LLM) -> None:
    first = llm.chat(ask("look", IMAGE, "well"), GREEDY)
    again = llm.chat(ask("look", IMAGE, "well"), GREEDY)
    assert again.usage.num_cached_tokens == first.usage.num_prompt_tokens - 1
    assert again.token_ids == first.token_ids
    other = llm.chat(ask("look", OTHER, "well"), GREEDY)
    assert 0 < other.usage.num_cached_tokens < 40
    assert other.usage.num_prompt_tokens == first.usage.num_prompt_tokens


def test_a_conversation_goes_on_behind_an_image(model: Path, llm: LLM) -> None:
    first = llm.chat(ask("look", IMAGE, "well"), GREEDY)
    question = [
        *ask("look", IMAGE, "well"),
        {"role": "assistant", "content": "It is a dog."},
        {"role": "user", "content": "A cat?"},
    ]
    second = llm.chat(question, GREEDY)
    assert second.usage.num_cached_tokens >= first.usage.num_prompt_tokens - 1
    text = chatml("look<IMAGE>well") + "It is a dog.<|im_end|>\n" + chatml("A cat?")
    assert second.token_ids == reference(model, text, [IMAGE], 12)[0]


def test_images_and_texts_are_answered_side_by_side(llm: LLM) -> None:
    questions = [ask("look", IMAGE, "well"), ask("just text"), ask("look", OTHER, "well")] * 2
    alone = [llm.chat(question, GREEDY).token_ids for question in questions]
    specs = [spec(question, i) for i, question in enumerate(questions)]
    assert [result.token_ids for result in llm.run(specs)] == alone


def spec(
    question: list[dict[str, Any]], index: int, sampling: SamplingParams = GREEDY
) -> GenerationSpec:
    return GenerationSpec(request_id=f"r{index}", messages=question, sampling=sampling)


def test_requests_that_give_way_compute_their_images_again(model: Path) -> None:
    questions = [ask("look", IMAGE if i % 2 else OTHER, f"{i}" * 30) for i in range(8)]
    sampling = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True, logprobs=2)
    specs = [spec(question, i, sampling) for i, question in enumerate(questions)]
    options = {"threads": 1, "parallel": 8, "speculation": "off"}
    with LLM(model, context_length=512, **options) as roomy:
        expected = [roomy.run([one])[0] for one in specs]
    with LLM(model, context_length=256, **options) as tight:
        with together(tight, len(specs)):
            results = tight.run(specs)
        for result, other in zip(results, expected, strict=True):
            assert_same_up_to_rounding(result, other)
        assert tight._host.stats().preemptions_total > 0  # what this test is about


def test_drafts_change_nothing(model: Path, llm: LLM) -> None:
    question = ask("look", IMAGE, "well well well well")
    sampling = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)
    with LLM(model, threads=1, context_length=512, speculation="ngram") as drafting:
        drafted = drafting.chat(question, sampling)
    assert drafted.usage.num_accepted_tokens > 0
    assert drafted.token_ids == llm.chat(question, sampling).token_ids


def test_a_model_without_a_projector_takes_no_images(tmp_path: Path) -> None:
    with (
        LLM(write_tiny_model(tmp_path / "tiny.gguf"), context_length=256) as llm,
        pytest.raises(InvalidRequestError, match="takes no images"),
    ):
        llm.chat(ask("look", IMAGE), GREEDY)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "cannot be read"),
        (b"no image", "cannot be read"),
        (IMAGE[: len(IMAGE) // 2], "damaged"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "cannot be read"),
        (IMAGE[:16] + b"\0\1\0\0\0\1\0\0" + IMAGE[24:], "pixels|cannot be read"),
    ],
)
def test_what_is_no_image_is_refused(llm: LLM, image: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        llm.chat(ask("look", image, "well"), GREEDY)
    assert llm.chat(ask("look", IMAGE, "well"), GREEDY).token_ids


def test_a_prompt_whose_images_do_not_fit_is_refused(llm: LLM) -> None:
    with pytest.raises(ContextLengthError):
        llm.chat(ask(*[IMAGE] * 200, "well"), GREEDY)


def test_a_projector_that_is_none_costs_the_images_not_the_model(tmp_path: Path) -> None:
    model = write_tiny_vision(tmp_path / "vision")
    write_projector(model.parent / "mmproj-tiny.gguf", n_out=32)
    with LLM(model, context_length=256) as llm:
        assert not llm._host.info.vision
    with pytest.raises(ModelLoadError):
        LLM(model, context_length=256, projector=str(model.parent / "mmproj-tiny.gguf"))
    with pytest.raises(ModelLoadError, match="no projector"):
        LLM(model, context_length=256, projector=str(model))

import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.benchmark.serve import Result, Run, Slo, figures_of


def result(*, first_s=0.1, gaps_s=(0.01, 0.01), error=None, sent_s=5.0, tokens=3, **given):
    chunks = [sent_s + first_s]
    for gap_s in gaps_s:
        chunks.append(chunks[-1] + gap_s)
    return Result(
        label="x", sent_s=sent_s, ended_s=chunks[-1], chunk_s=chunks, error=error,
        num_output_tokens=tokens, **given,
    )  # fmt: skip


def test_rates_and_latencies_of_complete_answers():
    run = Run(results=[result(first_s=0.1), result(first_s=0.3)], duration_s=2.0)
    figures = figures_of(run)
    assert figures.requests_per_s == 1.0
    assert figures.output_tokens_per_s == 3.0
    assert figures.ttft_ms.p50 == pytest.approx(200)
    assert figures.ttft_ms.highest == pytest.approx(300)
    assert figures.itl_ms.num_samples == 4
    assert figures.tpot_ms.p99 == pytest.approx(10)


def test_several_tokens_in_a_piece_shorten_the_time_per_token_not_the_gaps():
    figures = figures_of(Run(results=[result(tokens=5)], duration_s=1.0))
    assert figures.itl_ms.p50 == pytest.approx(10)
    assert figures.tpot_ms.p50 == pytest.approx(5)


def test_failures_count_in_nothing_but_errors():
    bad = [result(error="http 503", detail="busy"), result(error="http 503", detail="later")]
    figures = figures_of(Run(results=[result(), *bad], duration_s=1.0))
    assert (figures.num_requests, figures.num_failed) == (3, 2)
    assert figures.errors == {"http 503": 2}
    assert figures.details == {"http 503": "busy"}
    assert figures.requests_per_s == 1.0
    assert figures.ttft_ms.num_samples == 1


def test_goodput_counts_answers_within_both_limits():
    run = Run(
        results=[
            result(first_s=0.1, gaps_s=(0.01,) * 40),
            result(first_s=0.9, gaps_s=(0.01,) * 40),  # begins too late
            result(first_s=0.1, gaps_s=(0.01,) * 36 + (0.5,) * 4),  # stalls too often
            result(first_s=0.1, gaps_s=(0.01,) * 39 + (0.5,)),  # stalls once, above the 95th percentile
        ],
        duration_s=1.0,
    )  # fmt: skip
    assert figures_of(run, Slo(ttft_ms=200, itl_ms=50)).goodput_per_s == 2
    assert figures_of(run, Slo(ttft_ms=200)).goodput_per_s == 3
    assert figures_of(run).goodput_per_s == 4


def test_cached_tokens_are_told_only_if_every_answer_told_them():
    told = {"num_prompt_tokens": 10, "num_cached_tokens": 4, "from_usage": True}
    both = figures_of(Run(results=[result(**told), result(**told)], duration_s=1.0))
    assert (both.num_prompt_tokens, both.num_cached_tokens, both.from_usage) == (20, 8, True)
    one = figures_of(Run(results=[result(**told), result()], duration_s=1.0))
    assert (one.num_prompt_tokens, one.num_cached_tokens, one.from_usage) == (None, None, False)


def test_gaps_of_an_intrusion_are_those_of_the_streams():
    run = Run(results=[result()], intruded=[result(gaps_s=(2.0,))], duration_s=1.0)
    assert figures_of(run).itl_ms.p99 == pytest.approx(2000)
    assert figures_of(run).ttft_ms.p50 == pytest.approx(100)


def test_a_run_without_a_complete_answer_has_no_latencies():
    figures = figures_of(Run(results=[result(error="timeout")], duration_s=1.0))
    assert figures.ttft_ms is None
    assert figures.output_tokens_per_s == 0


def test_limits_below_zero_are_refused():
    with pytest.raises(InvalidRequestError, match="slo_ttft_ms is -1"):
        Slo(ttft_ms=-1)

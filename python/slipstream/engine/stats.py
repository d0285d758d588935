"""Figures of one engine, for /metrics and the command line."""

from __future__ import annotations

import msgspec


class EngineStats(msgspec.Struct, kw_only=True):
    """A snapshot; what ends in `_total` only grows. Taken while the engine runs, so figures may be a step apart.

    Attributes:
        num_running: Requests that take part in steps.
        num_waiting: Requests that wait, preempted ones among them.
        num_kv_cells: Tokens the KV cache can hold.
        num_live_cells: Of those, held by requests.
        num_cached_cells: Of those, held by cached prefixes; given up when needed.
        num_stored_bytes: Prefixes in host memory, of sequences that lost their cells.
        num_file_bytes: Prefixes in files.
        num_steps_total: Steps computed.
        prompt_tokens_total: Prompt tokens of admitted requests.
        cached_prompt_tokens_total: Of those, found in the KV cache.
        computed_tokens_total: Tokens computed in steps, again after a preemption too.
        output_tokens_total: Tokens sampled.
        drafted_tokens_total: Draft tokens verified in steps.
        accepted_tokens_total: Of those, were what the model said.
        rejected_tokens_total: Were not; at most one of a request in a step.
        ignored_tokens_total: Came after a rejected one. The last three add up to the first.
        draft_s_total: Seconds spent in the draft model.
        preemptions_total: Requests that lost their cells to older ones for a while.
        swaps_total: Of those, how many left their state in host memory or files.
        evicted_tokens_total: Tokens of cached prefixes that lost their cells.
        restored_tokens_total: Tokens that came back from host memory or files.
        host_hits_total: Prefixes restored from host memory.
        file_hits_total: Prefixes restored from files.
        failed_steps_total: Steps that ended in an error other than missing room.
        step_s_total: Seconds spent in the runner.
        schedule_s_total: Seconds spent around both: planning, accounting, handing out events.
        last_step_tokens: Tokens of the latest step.
        last_step_s: What it took.
        last_step_threads: CPU threads that shared it.
        step_cost_curve: (tokens, seconds) of the learnt cost T(n) of a step, both rising.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_kv_cells: int = 0
    num_live_cells: int = 0
    num_cached_cells: int = 0
    num_stored_bytes: int = 0
    num_file_bytes: int = 0
    num_steps_total: int = 0
    prompt_tokens_total: int = 0
    cached_prompt_tokens_total: int = 0
    computed_tokens_total: int = 0
    output_tokens_total: int = 0
    drafted_tokens_total: int = 0
    accepted_tokens_total: int = 0
    rejected_tokens_total: int = 0
    ignored_tokens_total: int = 0
    draft_s_total: float = 0.0
    preemptions_total: int = 0
    swaps_total: int = 0
    evicted_tokens_total: int = 0
    restored_tokens_total: int = 0
    host_hits_total: int = 0
    file_hits_total: int = 0
    failed_steps_total: int = 0
    step_s_total: float = 0.0
    schedule_s_total: float = 0.0
    last_step_tokens: int = 0
    last_step_s: float = 0.0
    last_step_threads: int = 0
    step_cost_curve: list[tuple[float, float]] = []

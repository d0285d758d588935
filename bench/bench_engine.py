"""What the engine costs over the model: bare native loop, LLM, HTTP; and eight streams against llama-batched-bench.

Arms run in turn, round by round, in one session, so that what slows the machine slows all of them. Each figure is
tokens per second of decoding (first token to last); each bar is a ratio of paired rounds with its 90 % interval. The
bare loop runs twice a round: the ratio of the two is the noise floor (A/A).

usage: python bench/bench_engine.py MODEL.gguf [--tokens 128] [--rounds 9] [--threads 0] [--json FILE]
       [--speculation ngram|off]
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
from servers import Shape, running, slipstream_command

from slipstream import LLM, SamplingParams
from slipstream.benchmark.report import provenance
from slipstream.benchmark.stats import paired_ratio, summarize
from slipstream.native import Context, Model

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHED_BENCH = Path(__file__).parent.parent / "build" / "peers" / "bin" / "llama-batched-bench"
PROMPT = "Write a long story about a lighthouse keeper and the sea."
NUM_STREAMS = 8


def sampling(num_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)


def bare_loop(path: str, num_tokens: int, threads: int) -> Callable[[], float]:
    """Time the native greedy loop after the prompt: no scheduler, no sampler, no text."""
    model = Model(path)
    context = Context(model, n_ctx=8192, n_seq_max=8, n_threads=threads)
    prompt = np.array(model.tokenize(PROMPT), dtype=np.int32)

    def run() -> float:
        context.memory_clear()
        context.decode(prompt)
        first = int(context.logits(len(prompt) - 1).argmax())
        begin_s = time.perf_counter()
        context.greedy_loop(first, num_tokens - 1)
        return (num_tokens - 1) / (time.perf_counter() - begin_s)

    return run


def in_process(llm: LLM, num_tokens: int) -> float:
    """Time one stream through LLM."""
    times = [
        time.perf_counter()
        for delta in llm.generate(PROMPT, sampling(num_tokens), stream=True)
        for _ in delta.token_ids
    ]
    return (len(times) - 1) / (times[-1] - times[0])


def eight_streams(llm: LLM, num_tokens: int) -> float:
    """Time eight prompts of equal length at once, from the moment all of them decode."""
    from slipstream.base.types import GenerationSpec, OutputDelta

    done: queue.SimpleQueue[str] = queue.SimpleQueue()
    prompts = [f"{i} {PROMPT}" for i in range(NUM_STREAMS)]
    seen: list[tuple[float, str, int]] = []

    def sink(events: list[Any]) -> None:
        now = time.perf_counter()
        for event in events:
            assert isinstance(event, OutputDelta), event
            seen.append((now, event.request_id, len(event.token_ids)))
            if event.finish_reason:
                done.put(event.request_id)

    for i, prompt in enumerate(prompts):
        spec = GenerationSpec(request_id=f"r{i}", prompt=prompt, sampling=sampling(num_tokens))
        llm._host.submit(spec, sink)
    for _ in prompts:
        done.get()
    firsts = {}
    for moment, request_id, num in seen:
        if num and request_id not in firsts:
            firsts[request_id] = moment
    all_running_s = max(firsts.values())
    num = sum(n for moment, _request_id, n in seen if moment > all_running_s)
    return num / (max(moment for moment, _r, _n in seen) - all_running_s)


def batched_bench(path: str, num_tokens: int, threads: int) -> float:
    """Run llama.cpp's own batched benchmark on the same shape."""
    command = [str(BATCHED_BENCH), "-m", path, "-c", "8192", "-b", "512", "-ub", "512", "-npp", "16",
               "-ntg", str(num_tokens), "-npl", str(NUM_STREAMS), "-kvu", "--output-format", "jsonl"]  # fmt: skip
    if threads:
        command += ["-t", str(threads), "-tb", str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed_tg"])


def over_http(url: str, model: str, num_tokens: int) -> float:
    """Time one SSE stream, first token to last, as a client sees it."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": num_tokens, "temperature": 0, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True}}  # fmt: skip
    first_s = last_s = 0.0
    num = 0
    with httpx2.stream("POST", url + "/v1/completions", json=body, timeout=300) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk["choices"] and chunk["choices"][0]["text"]:
                last_s = time.perf_counter()
                first_s = first_s or last_s
            if chunk.get("usage"):
                num = chunk["usage"]["completion_tokens"]
    assert num == num_tokens, f"{num} tokens of {num_tokens}"
    return (num - 1) / (last_s - first_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="0: physical cores")
    parser.add_argument("--speculation", default="ngram", help="ngram or off")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    path, num_tokens, threads = (
        str(Path(arguments.model).resolve()),
        arguments.tokens,
        arguments.threads,
    )
    mode = arguments.speculation
    shape = Shape(model=path, threads=threads)
    bare = bare_loop(path, num_tokens, threads)
    has_peer = BATCHED_BENCH.exists()
    figures: dict[str, list[float]] = {}
    with (
        LLM(path, context_length=8192, threads=threads, speculation=mode) as llm,
        running(slipstream_command(shape, "--speculation", mode)) as url,
    ):
        name = httpx2.get(url + "/v1/models").json()["data"][0]["id"]
        arms: dict[str, Callable[[], float]] = {
            "bare": bare,
            "llm": lambda: in_process(llm, num_tokens),
            "http": lambda: over_http(url, name, num_tokens),
            "bare again": bare,
            "8 streams": lambda: eight_streams(llm, num_tokens),
        }
        if has_peer:
            arms["batched-bench 8"] = lambda: batched_bench(path, num_tokens, threads)
        for number in range(arguments.rounds + 1):  # the first round warms up
            for arm, run in arms.items():
                figure = run()
                if number:
                    figures.setdefault(arm, []).append(figure)
            sys.stderr.write(f"\rround {number}/{arguments.rounds} ")
            sys.stderr.flush()
    pairs = [("bare again", "bare", None), ("llm", "bare", 0.97), ("http", "bare", 0.9)]
    if has_peer:
        pairs.append(("8 streams", "batched-bench 8", 0.95))
    report: dict[str, Any] = {
        "provenance": provenance(),
        "model": path,
        "load1": os.getloadavg()[0],
        "speculation": mode,
        "arms": {},
        "ratios": {},
    }
    print(f"\n{Path(path).name}: {num_tokens} tokens, {arguments.rounds} rounds")
    for arm, samples in figures.items():
        s = summarize(samples)
        report["arms"][arm] = samples
        print(f"  {arm:16} {s.median:8.2f} tok/s   ({s.lowest:.2f} … {s.highest:.2f})")
    for a, b, bar in pairs:
        r = paired_ratio(figures[a], figures[b])
        report["ratios"][f"{a} / {b}"] = {
            "median": r.median,
            "low": r.low,
            "high": r.high,
            "bar": bar,
        }
        verdict = "A/A" if bar is None else f"bar {bar}: {'met' if r.high >= bar else 'MISSED'}"
        print(f"  {a + ' / ' + b:32} {r.median:.3f}   [{r.low:.3f}, {r.high:.3f}]   {verdict}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

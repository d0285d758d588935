"""One arm of bench_kernels.py: loads a model, then times steps as it is told on standard input.

A line `rows repetitions` is answered by `seconds` and a JSON list. Steps of up to 16 rows give logits for each row, as
a batch or a draft does; longer ones only for the last, as a prompt does.

usage: python bench/step_arm.py MODEL THREADS repack|plain      (SLIPSTREAM_KERNELS=off for upstream's kernels)
       PYTHON bench/step_arm.py MODEL THREADS ik                (a Python that has ik-llama-cpp-python)
"""

from __future__ import annotations

import json
import os
import sys
import time
from random import Random

DEPTH = 32  # tokens in the KV cache before a step
MAX_ROWS = 512
MAX_OUTPUTS = 16


def slipstream_step(path, threads, repack):
    """Return the size of the vocabulary and a function that times one step."""
    import numpy as np

    from slipstream.native import Context, Model

    model = Model(path, repack=repack)
    if os.environ.get("SLIPSTREAM_KERNELS") != "off":
        model.use_huge_pages(wait=True)  # as our engine does
    context = Context(
        model,
        n_ctx=DEPTH + MAX_ROWS,
        n_batch=MAX_ROWS,
        n_outputs_max=MAX_OUTPUTS,
        n_threads=threads,
    )

    def step(tokens):
        context.memory_clear()
        context.decode(np.array(tokens[:DEPTH], dtype=np.int32))
        rest = np.array(tokens[DEPTH:], dtype=np.int32)
        outputs = np.zeros(len(rest), dtype=np.bool_)
        outputs[0 if len(rest) <= MAX_OUTPUTS else -1 :] = True
        begin_s = time.perf_counter()
        context.decode(rest, None, None, outputs)
        return time.perf_counter() - begin_s

    return model.n_vocab, step


def ik_step(path, threads):
    """As above, by the low-level calls of the ik_llama.cpp wheel."""
    from ik_llama_cpp import _ctypes_api as api
    from ik_llama_cpp._internals import IkContext, IkModel

    model = IkModel(path)
    holder = IkContext(model, n_ctx=DEPTH + MAX_ROWS, n_threads=threads)
    context = holder.ctx
    batch = api.llama_batch_init(MAX_ROWS, 0, 1)

    def decode(tokens, first, num_outputs):
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, first + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i >= len(tokens) - num_outputs
        begin_s = time.perf_counter()
        if api.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")
        api.llama_get_logits_ith(context, len(tokens) - 1)  # waits for the result
        return time.perf_counter() - begin_s

    def step(tokens):
        api.llama_kv_cache_clear(context)
        decode(tokens[:DEPTH], 0, 1)
        rows = len(tokens) - DEPTH
        return decode(tokens[DEPTH:], DEPTH, rows if rows <= MAX_OUTPUTS else 1)

    step.holder = holder  # which frees the context with itself
    return model.n_vocab, step


def main():
    path, threads, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if kind == "ik":
        num_vocab, step = ik_step(path, threads)
    else:
        num_vocab, step = slipstream_step(path, threads, kind == "repack")
    random = Random(1)
    tokens = [random.randrange(num_vocab) for _ in range(DEPTH + MAX_ROWS)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        rows, repetitions = map(int, line.split())
        seconds = [step(tokens[: DEPTH + rows]) for _ in range(repetitions)]
        sys.stdout.write(f"seconds {json.dumps(seconds)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

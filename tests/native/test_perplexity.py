"""Perplexity of real models on a fixed text, our kernels beside upstream's. Needs SLIPSTREAM_DEV_MODELS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.dev_models, pytest.mark.slow]

TEXT = Path(__file__).parents[2] / "docs" / "design"
NUM_TOKENS, CHUNK = 2048, 512
# Prints the perplexity of chunks that know nothing of each other.
PROGRAM = """
import sys
import numpy as np
from slipstream.native import Context, Model
model = Model(sys.argv[1], repack=False)
num_tokens, chunk = int(sys.argv[2]), int(sys.argv[3])
tokens = np.array(model.tokenize(sys.stdin.read())[:num_tokens], dtype=np.int32)
assert len(tokens) == num_tokens, len(tokens)
context = Context(model, n_ctx=chunk, n_batch=128)
losses = []
for start in range(0, num_tokens, chunk):
    context.memory_clear()
    for at in range(start, start + chunk, 128):
        context.decode(tokens[at : at + 128], None, None, np.ones(128, dtype=np.bool_))
        for i in range(min(128, start + chunk - 1 - at)):
            logits = context.logits(i).astype(np.float64)
            top = logits.max()
            losses.append(top + np.log(np.exp(logits - top).sum()) - logits[tokens[at + i + 1]])
print(np.exp(np.mean(losses)))
"""


def perplexity(model: Path, kernels: str) -> float:
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in sorted(TEXT.glob("*.md")))
    command = [sys.executable, "-c", PROGRAM, str(model), str(NUM_TOKENS), str(CHUNK)]
    environment = os.environ | {"SLIPSTREAM_KERNELS": kernels}
    return float(subprocess.check_output(command, env=environment, input=text, text=True))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen05", "qwen15"])
def test_perplexity_is_that_of_upstream_within_a_thousandth(dev_models: Path, name: str) -> None:
    model = dev_models / f"{name}.gguf"
    ours, upstream = perplexity(model, "on"), perplexity(model, "off")
    print(f"{name}: {ours:.5f} with our kernels, {upstream:.5f} with upstream's")
    assert ours <= 1.001 * upstream
    assert ours >= 0.99 * upstream, "better by so much that one of the two computes something else"

"""Perplexity of real models on a fixed text, our kernels beside upstream's. Needs SLIPSTREAM_DEV_MODELS.

Both round activations to 8 bits, each in its own way, so losses of a token differ by chance, by 0.08 on
Qwen2.5-Coder-1.5B: over 2,044 tokens the standard error is 0.17 %, which says nothing about a bar of 0.1 %. The text is
long enough for it to be well below the bar, and is that of the pinned llama.cpp, which does not change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.dev_models, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LLAMA = Path(os.environ.get("LLAMA_CPP_SOURCE_DIR") or ROOT / "third_party" / "llama.cpp")
NUM_TOKENS, CHUNK = 16384, 512
# Writes the losses of the tokens of chunks that know nothing of each other.
PROGRAM = """
import sys
import numpy as np
from slipstream.native import Context, Model
model = Model(sys.argv[1], repack=False)
num_tokens, chunk = int(sys.argv[2]), int(sys.argv[3])
tokens = np.array(model.tokenize(sys.stdin.read())[:num_tokens], dtype=np.int32)
assert len(tokens) == num_tokens, len(tokens)
context = Context(model, n_ctx=chunk, n_batch=chunk, n_outputs_max=chunk)
losses = []
for start in range(0, num_tokens, chunk):
    context.memory_clear()
    context.decode(tokens[start : start + chunk], None, None, np.ones(chunk, dtype=np.bool_))
    for i in range(chunk - 1):
        logits = context.logits(i)
        top = logits.max()
        losses.append(float(top) + np.log(float(np.exp(logits - top).sum())) - float(logits[tokens[start + i + 1]]))
np.save(sys.argv[4], losses)
"""


def losses(model: Path, kernels: str, folder: Path) -> np.ndarray:
    files = sorted((LLAMA / "tools").rglob("*.md"))
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    out = folder / f"{kernels}.npy"
    command = [sys.executable, "-c", PROGRAM, str(model), str(NUM_TOKENS), str(CHUNK), str(out)]
    environment = os.environ | {"SLIPSTREAM_KERNELS": kernels}
    subprocess.run(command, env=environment, input=text, text=True, check=True)
    loaded: np.ndarray = np.load(out)
    return loaded


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["smollm2-135m", "qwen05", "qwen15"])
def test_perplexity_is_that_of_upstream_within_a_thousandth(
    dev_models: Path, tmp_path: Path, name: str
) -> None:
    model = dev_models / f"{name}.gguf"
    ours, upstream = losses(model, "on", tmp_path), losses(model, "off", tmp_path)
    ratio = np.exp((ours - upstream).mean())
    error = (ours - upstream).std() / np.sqrt(len(ours))
    print(f"{name}: {np.exp(ours.mean()):.5f} with our kernels, {np.exp(upstream.mean()):.5f} with upstream's; "
          f"{ratio:.5f} of it, standard error {error:.5f}")  # fmt: skip
    assert error <= 0.0007, "too short a text to tell"
    assert ratio <= 1.001
    assert ratio >= 0.99, "better by so much that one of the two computes something else"

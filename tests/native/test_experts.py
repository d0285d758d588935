"""A mixture of experts with quantized weights on our kernels: alone, in company, and beside upstream's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from slipstream.base.errors import InvalidRequestError
from slipstream.native import Context, Model, build_info
from tests.support.gguf_writer import Tensors, gguf_bytes, to_q8_0
from tests.support.tiny_gguf import N_EMBD, N_FF, N_LAYER, tiny_parts

if TYPE_CHECKING:
    from pathlib import Path

NUM_EXPERTS, NUM_USED = 4, 2
TOKENS = np.arange(40, 57, dtype=np.int32)
LAST_LOGITS = """
import json, sys
import numpy as np
from slipstream.native import Context, Model
context = Context(Model(sys.argv[1], repack=False), n_ctx=64, n_threads=2)
context.decode(np.arange(40, 57, dtype=np.int32))
print(json.dumps(context.logits(16).tolist()))
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata, parts = tiny_parts("llama")
    random = np.random.default_rng(3)
    tensors: Tensors = [(name, array) for name, array in parts if ".ffn_" not in name]
    for layer in range(N_LAYER):
        shapes = {"gate": (N_FF, N_EMBD), "up": (N_FF, N_EMBD), "down": (N_EMBD, N_FF)}
        for name, shape in shapes.items():
            values = random.normal(0, shape[1] ** -0.5, (NUM_EXPERTS, *shape))
            tensors.append((f"blk.{layer}.ffn_{name}_exps.weight", to_q8_0(values)))
        router = random.normal(0, 1, (NUM_EXPERTS, N_EMBD)).astype(np.float32)
        tensors.append((f"blk.{layer}.ffn_gate_inp.weight", router))
        tensors.append((f"blk.{layer}.ffn_norm.weight", np.ones(N_EMBD, dtype=np.float32)))
    metadata += [
        ("llama.expert_count", "u32", NUM_EXPERTS),
        ("llama.expert_used_count", "u32", NUM_USED),
    ]
    file = tmp_path_factory.mktemp("experts") / "experts.gguf"
    file.write_bytes(gguf_bytes(metadata, tensors))
    return file


def last_logits(path: Path, kernels: str) -> np.ndarray:
    command = [sys.executable, "-c", LAST_LOGITS, str(path)]
    environment = os.environ | {"SLIPSTREAM_KERNELS": kernels}
    output = subprocess.check_output(command, env=environment, text=True)
    return np.array(json.loads(output))


def test_experts_compute_what_upstream_computes(path: Path) -> None:
    ours, upstream = last_logits(path, "on"), last_logits(path, "off")
    # Both quantize activations to 8 bits with a scale for every 32, but in another order of rounding.
    assert np.abs(ours - upstream).max() < 0.02 * np.abs(upstream).max()
    if "q8_0" in build_info()["kernels"]:
        assert np.any(ours != upstream), "SLIPSTREAM_KERNELS makes no difference"


def test_a_load_says_how_many_experts_a_token_is_sent_to(path: Path, tiny_path) -> None:
    def logits(num_experts: int) -> np.ndarray:
        context = Context(Model(path, num_experts=num_experts), n_ctx=64, n_threads=1)
        context.decode(TOKENS)
        return context.logits(len(TOKENS) - 1)

    usual = logits(0)
    assert np.array_equal(logits(NUM_USED), usual)
    assert not np.allclose(logits(1), usual)
    assert not np.allclose(logits(NUM_EXPERTS), usual)
    for num_experts in (NUM_EXPERTS + 1, -1):
        with pytest.raises(InvalidRequestError, match=f"between 1 and {NUM_EXPERTS}") as caught:
            logits(num_experts)
        assert caught.value.param == "num_experts"
    with pytest.raises(InvalidRequestError, match="no mixture"):
        Model(tiny_path("llama"), num_experts=2)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_token_does_not_depend_on_what_other_sequences_send_to_its_experts(
    path: Path, num_threads: int
) -> None:
    model = Model(path, repack=False)

    def logits(num_sequences: int) -> np.ndarray:
        """One token for each of so many sequences, in caches that are the same for the first."""
        context = Context(model, n_ctx=512, n_seq_max=8, n_threads=num_threads)
        tokens = TOKENS[:num_sequences]
        outputs = np.ones(num_sequences, dtype=np.bool_)
        positions = np.zeros(num_sequences, dtype=np.int32)
        context.decode(tokens, positions, np.arange(num_sequences, dtype=np.int32), outputs)
        return context.logits(0).copy()

    if "q8_0" not in build_info()["kernels"]:
        pytest.skip("this machine computes with upstream's kernels")
    alone = logits(1)
    for num_sequences in (2, 5, 8):
        diff = np.abs(logits(num_sequences) - alone).max()
        assert diff < 1e-4 * np.abs(alone).max(), num_sequences

"""How long listing models takes: 500 models (gate: 50 ms) and 10,000 files (gate: 1 s), once their headers are known.

python bench/bench_store.py            exits with 1 where a gate is missed
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from slipstream.models.store import ModelStore
from tests.support.gguf_writer import gguf_bytes

REPETITIONS = 7


def lay_out(root: Path, num_models: int, quants: list[str]) -> None:
    metadata = [("general.architecture", "str", "llama"), ("llama.context_length", "u32", 4096)]
    seed = root / "seed"
    seed.write_bytes(gguf_bytes(metadata, [("w", np.zeros((4, 8), np.float32))]))
    for i in range(num_models):
        folder = root / "models" / f"publisher{i % 20}" / f"model{i}"
        folder.mkdir(parents=True)
        for quant in quants:
            os.link(seed, folder / f"model{i}-{quant}.gguf")


def measure(num_models: int, quants: list[str], gate_s: float) -> bool:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["SLIPSTREAM_HOME"] = str(root / "home")
        lay_out(root, num_models, quants)
        begin = time.perf_counter()
        found = len(ModelStore([root / "models"]).scan())
        cold_s = time.perf_counter() - begin
        fresh, warm = [], []
        for _ in range(REPETITIONS):
            begin = time.perf_counter()
            store = ModelStore([root / "models"])  # a new process: the index is read from disk
            store.scan()
            fresh.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            store.scan()
            warm.append(time.perf_counter() - begin)
    if found != num_models:
        raise SystemExit(f"{found} models found of {num_models}")
    median_s = statistics.median(fresh)
    print(
        f"{num_models} models, {num_models * len(quants)} files: first {cold_s * 1e3:.0f} ms, index from disk "
        f"{median_s * 1e3:.1f} ± {statistics.stdev(fresh) * 1e3:.1f} ms, same store "
        f"{statistics.median(warm) * 1e3:.1f} ms; gate {gate_s * 1e3:.0f} ms"
    )
    return median_s <= gate_s


if __name__ == "__main__":
    ten = ["Q2_K", "Q3_K_M", "Q4_0", "Q4_1", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K", "Q8_0"]
    sys.exit(0 if all([measure(500, ["Q4_K_M"], 0.05), measure(1000, ten, 1.0)]) else 1)

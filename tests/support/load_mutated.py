"""Loads damaged tiny models one after another and says how each went: the child of test_load_faults.py.

    python -m tests.support.load_mutated FOLDER FIRST END

Prints a line for each number before it starts ("17") and after it ("17 refused"), so that the parent knows
where a crash came from.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np

from slipstream.base.errors import SlipstreamError
from slipstream.native import Context, Model
from tests.support.mutations import mutated_file
from tests.support.tiny_gguf import tiny_parts

KINDS = ("llama", "gemma3", "mamba", "lfm2")


def outcome(path: Path) -> str:
    """Load, make a context and decode; return "ran", or "refused" with an error of ours, or the foreign error."""
    try:
        model = Model(path)
        context = Context(model, n_ctx=64, n_batch=16, n_seq_max=1, n_threads=1)
        tokens = model.tokenize("Hello, world", add_special=True)[:16]
        context.decode(np.array(tokens, np.int32))
        model.detokenize(tokens)
        model.metadata()
        context.close()
        model.close()
    except SlipstreamError as error:
        return f"refused {type(error).__name__}"
    except Exception as error:  # the parent counts these as faults of the binding
        return f"foreign {type(error).__name__}: {error}"
    return "ran"


def main() -> None:
    """See the module."""
    folder, first, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    parts = {kind: tiny_parts(kind) for kind in KINDS}
    path = folder / "mutated.gguf"
    for number in range(first, end):
        print(number, flush=True)
        source = random.Random(number)
        path.write_bytes(mutated_file(*parts[KINDS[number % len(KINDS)]], source))
        print(number, outcome(path), flush=True)


if __name__ == "__main__":
    main()

"""The largest settings a context takes, for whoever checks them before the native core does. Knows nothing else."""

from __future__ import annotations

MAX_CONTEXT_LENGTH = 2**31 - 1  # llama_pos is 32 bits
MAX_PARALLEL = 256  # LLAMA_MAX_SEQ of llama.cpp
MAX_THREADS = 512  # GGML_MAX_N_THREADS
SPECULATION_MODES = ("auto", "ngram", "draft", "off")
MAX_DRAFT_TOKENS = 16  # of one sequence in one step
VERIFY_MODES = ("exact", "distribution")
MAX_PORT = 65535
MAX_SEED = 2**64 - 1
MAX_BATCH_SIZE = 2**20  # ours: more would only be memory
CONTEXT_OVERFLOW_POLICIES = ("error", "truncate_middle", "rolling_window")

"""Checks the tokenizer part of a GGUF header against what llama.cpp asserts. Reads no file."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from slipstream.models.gguf_types import GgufArray, refuse

if TYPE_CHECKING:
    from slipstream.models.gguf_types import GgufHeader

TOKENS = "tokenizer.ggml.tokens"
TOKEN_TYPES = "tokenizer.ggml.token_type"
KEEP = frozenset({TOKENS, TOKEN_TYPES})  # arrays whose items the checks look at
NO_TOKEN = (1 << 32) - 1  # -1 as u32: files say so of a special token they do not have
_BYTE = 6  # LLAMA_TOKEN_TYPE_BYTE
_NO_VOCABULARY = ("no_vocab", "none")
# Per token arrays: llama.cpp reads them by token id and allows more items, not fewer
_PER_TOKEN = {
    TOKEN_TYPES: ("i32",),
    "tokenizer.ggml.scores": ("f32", "i32"),
}
# Ids that steer generation. Others (padding, above all) are out of range in files that work well.
_STEERING = ("bos", "eos", "eot", "eom")
# tokenizer model -> (default bos, eos, sep; whether they are added), of those that assert the token
# they add is there (llama-vocab.cpp `load` and `tokenize`)
_DEFAULTS: dict[str, tuple[tuple[int, int, int], tuple[bool, bool, bool]]] = {
    "llama": ((1, 2, -1), (True, False, False)),
    "bert": ((101, -1, 102), (True, False, True)),
    "gpt2": ((11, 11, -1), (False, False, False)),
    "gemma4": ((-1, -1, -1), (True, False, False)),
    "t5": ((-1, 1, -1), (False, True, False)),
}
_ADDS_SEPARATOR = ("bert",)
_KEYS = ("bos_token_id", "eos_token_id", "seperator_token_id")  # the spelling is the format's
_ADD_KEYS = ("add_bos_token", "add_eos_token", "add_sep_token")


def check_tokenizer(header: GgufHeader) -> None:
    """Check vocabulary, special tokens and their agreement with the embedding.

    Args:
        header: Read with the items of KEEP.

    Raises:
        ModelLoadError: llama.cpp would refuse this tokenizer, or die of it.
    """
    model = header.metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str):
        what = header.value_types.get("tokenizer.ggml.model", "missing")
        refuse(header.path, f"tokenizer.ggml.model is {what}; it must be a string")
    if model in _NO_VOCABULARY:
        return
    tokens = header.metadata.get(TOKENS)
    if not isinstance(tokens, GgufArray) or tokens.item_type != "str":
        what = header.value_types.get(TOKENS, "missing")
        refuse(header.path, f"{TOKENS} is {what}; it must be an array of strings")
    _check_tokens(header, tokens)
    _check_arrays(header, model, tokens.count)
    _check_special(header, model, tokens.count)


def _check_tokens(header: GgufHeader, tokens: GgufArray) -> None:
    if tokens.count == 0:
        refuse(header.path, f"{TOKENS} is empty")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None:
        rows = embedding.shape[1] if len(embedding.shape) > 1 else 1
        if rows != tokens.count and header.architecture != "eagle3":  # it has its target's rows
            refuse(
                header.path,
                f"the vocabulary has {tokens.count} tokens, token_embd.weight has {rows} rows",
            )
    texts = cast("tuple[bytes, ...]", tokens.items or ())
    distinct = set(texts)
    if len(distinct) == len(texts) and b"" not in distinct and b"\0" not in b"".join(texts):
        return
    named = (text.split(b"\0", 1)[0] for text in texts)  # llama.cpp takes tokens as C strings
    seen: dict[bytes, int] = {}
    for i, text in enumerate(named):
        name = text or b"[EMPTY_%d]" % i  # as llama.cpp calls them
        if name in seen:
            shown = name.decode(errors="replace")[:80]
            refuse(header.path, f"tokens {seen[name]} and {i} are both {shown!r}")
        seen[name] = i


def _check_arrays(header: GgufHeader, model: str, num_tokens: int) -> None:
    for key, item_types in _PER_TOKEN.items():
        value = header.metadata.get(key)
        if value is None:
            continue
        if not isinstance(value, GgufArray) or value.item_type not in item_types:
            refuse(header.path, f"{key} is no array of {' or '.join(item_types)}")
        if value.count < num_tokens:
            refuse(header.path, f"{key} has {value.count} items for {num_tokens} tokens")
    types = header.metadata.get(TOKEN_TYPES)
    if model == "bert" and isinstance(types, GgufArray) and _BYTE in (types.items or ()):
        refuse(
            header.path, f"{TOKEN_TYPES} has byte tokens, which a WordPiece tokenizer cannot have"
        )
    merges = header.metadata.get("tokenizer.ggml.merges")
    if merges is not None and (not isinstance(merges, GgufArray) or merges.item_type != "str"):
        refuse(header.path, "tokenizer.ggml.merges is no array of strings")


def _check_special(header: GgufHeader, model: str, num_tokens: int) -> None:
    for name in _STEERING:
        key = f"tokenizer.ggml.{name}_token_id"
        value = header.metadata.get(key)
        if value is None:
            continue
        if header.value_types[key] != "u32" or not isinstance(value, int):
            refuse(header.path, f"{key} is {header.value_types[key]}, not u32")
        if num_tokens <= value < NO_TOKEN:
            refuse(header.path, f"{key} is {value}; the vocabulary has {num_tokens} tokens")
    if model not in _DEFAULTS:
        return
    defaults, adds = _DEFAULTS[model]
    for key, default, add_key, add in zip(_KEYS, defaults, _ADD_KEYS, adds, strict=True):
        added = header.metadata.get(f"tokenizer.ggml.{add_key}", add) is True
        if key == "seperator_token_id" and model not in _ADDS_SEPARATOR:
            continue
        value = header.metadata.get(f"tokenizer.ggml.{key}", NO_TOKEN)
        usable = isinstance(value, int) and value < num_tokens
        if added and not usable and not 0 <= default < num_tokens:
            refuse(
                header.path,
                f"the tokenizer adds tokenizer.ggml.{key}, which is no token of the vocabulary",
            )

"""Tokenizer metadata of the tiny models: byte-level BPE and WordPiece. Knows no weights."""

from __future__ import annotations

import string
from typing import Any

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5  # llama_token_type in llama.h
_WORDS = (" the", " and", " is", "ing", "ello", "user", "assistant", "system")

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """Return the character that stands for each byte in a byte-level BPE vocabulary (GPT-2's)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in alphabet:
            alphabet[byte] = chr(0x100 + len(alphabet) - len(printable))
    return [alphabet[byte] for byte in range(256)]


def merge_rules() -> list[tuple[str, str]]:
    """Return merges that build a handful of words, each from the left, letter by letter."""
    alphabet = byte_alphabet()
    rules: list[tuple[str, str]] = []
    for word in _WORDS:
        letters = [alphabet[byte] for byte in word.encode()]
        left = letters[0]
        for letter in letters[1:]:
            if (left, letter) not in rules:
                rules.append((left, letter))
            left += letter
    return rules


def bpe_vocabulary(n_vocab: int) -> list[str]:
    """Return `n_vocab` tokens: the specials, 256 bytes, the merged pieces, then unused ones.

    Raises:
        ValueError: fewer tokens than the specials, the bytes and the merges need.
    """
    tokens = [*SPECIALS, *byte_alphabet()]
    tokens += dict.fromkeys(left + right for left, right in merge_rules())
    if n_vocab < len(tokens):
        message = f"n_vocab is {n_vocab}; this vocabulary needs at least {len(tokens)}"
        raise ValueError(message)
    return tokens + [f"<|unused_{i}|>" for i in range(n_vocab - len(tokens))]


def tokenizer_metadata(tokens: list[str]) -> list[tuple[str, str, Any]]:
    """Return the metadata of a byte-level BPE tokenizer with these tokens and a ChatML template."""
    types = [_token_type(token) for token in tokens]
    return [
        ("tokenizer.ggml.model", "str", "gpt2"),
        ("tokenizer.ggml.pre", "str", "gpt-2"),
        ("tokenizer.ggml.tokens", "[str]", tokens),
        ("tokenizer.ggml.token_type", "[i32]", types),
        ("tokenizer.ggml.merges", "[str]", [f"{left} {right}" for left, right in merge_rules()]),
        ("tokenizer.ggml.bos_token_id", "u32", 0),
        ("tokenizer.ggml.eos_token_id", "u32", 2),
        ("tokenizer.ggml.padding_token_id", "u32", 0),
        ("tokenizer.ggml.add_bos_token", "bool", False),
        ("tokenizer.chat_template", "str", CHATML_TEMPLATE),
    ]


def _token_type(token: str) -> int:
    if token in SPECIALS:
        return _CONTROL
    return _UNUSED if token.startswith("<|unused_") else _NORMAL


def wordpiece_metadata() -> tuple[list[str], list[tuple[str, str, Any]]]:
    """Return a WordPiece vocabulary of single characters and its metadata.

    llama.cpp marks the start of a word with U+2581, where BERT's own files mark the inside with ##.
    """
    characters = string.ascii_lowercase + string.digits + string.punctuation
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*specials, *(f"▁{c}" for c in characters), *characters]
    types = [_CONTROL, _UNKNOWN, _CONTROL, _CONTROL, _CONTROL] + [_NORMAL] * (2 * len(characters))
    return tokens, [
        ("tokenizer.ggml.model", "str", "bert"),
        ("tokenizer.ggml.tokens", "[str]", tokens),
        ("tokenizer.ggml.token_type", "[i32]", types),
        ("tokenizer.ggml.token_type_count", "u32", 2),
        ("tokenizer.ggml.bos_token_id", "u32", 2),
        ("tokenizer.ggml.unknown_token_id", "u32", 1),
        ("tokenizer.ggml.seperator_token_id", "u32", 3),
        ("tokenizer.ggml.padding_token_id", "u32", 0),
        ("tokenizer.ggml.mask_token_id", "u32", 4),
    ]

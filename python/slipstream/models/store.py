"""The models there are: joins the files of all folders into models with keys, variants and projectors.

One folder of files becomes:   qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf            variant q4_k_m ─┐
                               qwen/Qwen3-8B-GGUF/Qwen3-8B-Q8_0-0000[12]-of-2     variant q8_0   ─┴─ qwen/qwen3-8b
                               qwen/Qwen3-8B-GGUF/mmproj-F16.gguf                 its projector
Never runs a model. A file that cannot be read is a model of the state "broken" and hides no other.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace as _replace

from slipstream.base.config import model_folders
from slipstream.models.facts import read_facts
from slipstream.models.index import FactsIndex
from slipstream.models.layouts import FoundFile, find_files, loose_file
from slipstream.models.lookup import pick
from slipstream.models.model_info import Capabilities, ModelInfo, ModelVariant
from slipstream.models.names import (
    is_projector,
    key_part,
    preferred,
    quant_of,
    split_part,
    without_quant,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from slipstream.models.facts import FileFacts


class ModelStore:
    """The models of some folders. Safe to use from several threads.

    Args:
        folders: Where to look, the first ones win; `config.model_folders()` by default, asked at every scan.
    """

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        self._folders = folders
        self._index: FactsIndex | None = None
        self._lock = threading.Lock()

    def scan(self) -> list[ModelInfo]:
        """Look at the folders and return their models, sorted by key.

        Changed and new files are read (some 50 ms each), the rest comes from the index: 10,000 files take
        less than a second.
        """
        with self._lock:
            if self._index is None:
                self._index = FactsIndex()
            index = self._index
            folders = model_folders() if self._folders is None else self._folders
            groups: dict[tuple[str, str], list[tuple[FoundFile, FileFacts]]] = defaultdict(list)
            seen: set[str] = set()
            for root in folders:
                for file in find_files(root):
                    if file.path not in seen:
                        seen.add(file.path)
                        groups[
                            str(Path(file.path).parent), f"{file.publisher}/{file.model}"
                        ].append((file, index.facts(file)))
            index.save()
        taken: dict[str, ModelInfo] = {}
        for members in groups.values():
            for model in _models(members):
                if model.key not in taken:
                    taken[model.key] = model
                else:
                    other = _renamed(model, taken)
                    taken[other.key] = other
        return sorted(taken.values(), key=lambda model: model.key)

    def find(self, key: str) -> ModelInfo:
        """Return the model a name means; nothing outside of the folders is ever touched.

        Args:
            key: "publisher/model", with "@quantization" for a variant, with "/file.gguf" for a file; upper case,
                "-GGUF" and, where it is clear, the publisher do not matter. "demo" is the demo model.

        Returns:
            The model, with the variant selected that was asked for. It may be broken.

        Raises:
            ModelNotFoundError: there is no such model, or several; the message says what to do.
        """
        return pick(self.scan(), key)


def describe_file(path: Path) -> ModelInfo:
    """Return what a file outside of the folders is, as if it lay loose in one; the files of a split model count as one.

    Args:
        path: A .gguf file; one that is gone or damaged gives a model of the state "broken".
    """
    stem = split_part(path.stem)[0]
    beside = sorted(path.parent.glob("*.gguf"))
    paths = [p for p in beside if split_part(p.stem)[0] == stem or is_projector(p.name)]
    members = []
    for part in paths if path in paths else [path, *paths]:
        with suppress(OSError):
            members.append((loose_file(part), read_facts(part)))
    found = [m for m in _models(members) if m.path == str(path)]
    return found[0] if found else _missing(path)


def _missing(path: Path) -> ModelInfo:
    key = f"local/{key_part(path.stem)}"
    return ModelInfo(
        key=key,
        publisher="local",
        display_name=path.stem,
        type="llm",
        path=str(path),
        size_bytes=0,
        architecture="",
        num_params=0,
        quantization="",
        context_length=0,
        capabilities=Capabilities(),
        variants=(),
        selected_variant=key,
        state="broken",
        error=f"{path} cannot be read, or is no model",
    )


def _models(members: list[tuple[FoundFile, FileFacts]]) -> Iterable[ModelInfo]:
    """Join the files of one folder into models."""
    projectors = sorted(
        file.path for file, facts in members if file.projector or facts.kind == "mmproj"
    )
    wholes: dict[str, list[tuple[FoundFile, FileFacts]]] = defaultdict(list)
    for file, facts in members:
        if file.path not in projectors and facts.kind in ("model", "broken"):
            wholes[split_part(file.name)[0]].append((file, facts))
    named: dict[str, list[str]] = defaultdict(list)
    for stem in sorted(wholes):
        named[without_quant(stem).lower()].append(stem)
    for base, stems in named.items():
        first = wholes[stems[0]][0][0]
        publisher = key_part(first.publisher)
        if not first.model:
            key = f"{publisher}/{key_part(base)}"
        else:
            key = f"{publisher}/{key_part(first.model)}"
            if len(named) > 1:
                key += f"/{key_part(base)}"
        yield _model(key, first.publisher, [wholes[stem] for stem in stems], projectors)


def _model(
    key: str,
    publisher: str,
    wholes: list[list[tuple[FoundFile, FileFacts]]],
    projectors: list[str],
) -> ModelInfo:
    variants = []
    facts_of = {}
    for parts in wholes:
        parts.sort(key=lambda part: part[0].name)
        variant = _variant(key, parts)
        if variant.key in facts_of:  # another file of the same quantization
            stem = split_part(parts[0][0].name)[0]
            variant = _replace(variant, key=f"{key}@{key_part(stem)}")
        variants.append(variant)
        facts_of[variant.key] = parts[0][1]
    usable = [variant for variant in variants if variant.error is None]
    chosen = preferred(usable or variants, lambda v: v.quantization, lambda v: v.size_bytes)
    facts = facts_of[chosen.key]
    return ModelInfo(
        key=key,
        publisher=publisher,
        display_name=facts.name or key.rsplit("/", 1)[-1],
        type="embedding" if facts.embedding else "llm",
        path=chosen.path,
        size_bytes=chosen.size_bytes,
        architecture=facts.architecture,
        num_params=chosen.num_params,
        quantization=chosen.quantization,
        context_length=facts.context_length,
        capabilities=Capabilities(
            tool_use=facts.tool_use,
            vision=bool(projectors),
            reasoning=facts.reasoning,
            reasoning_levels=facts.reasoning_levels,
            embedding=facts.embedding,
            rerank=facts.rerank,
        ),
        num_experts=facts.num_experts,
        variants=tuple(sorted(variants, key=lambda variant: variant.key)),
        selected_variant=chosen.key,
        mmproj=projectors[0] if projectors else None,
        state="broken" if chosen.error else "ready",
        error=chosen.error,
    )


def _variant(key: str, parts: list[tuple[FoundFile, FileFacts]]) -> ModelVariant:
    file, facts = parts[0]
    stem, _, count = split_part(file.name)
    quant = quant_of(stem) or facts.file_type
    num_parts = max(count, facts.num_parts)
    error = next((part.error for _, part in parts if part.error), None)
    if error is None and len(parts) != num_parts:
        error = f"it is split into {num_parts} files and {num_parts - len(parts)} are missing"
    return ModelVariant(
        key=f"{key}@{quant.lower() or key_part(stem)}",
        path=file.path,
        quantization=quant,
        size_bytes=sum(part.size_bytes for part, _ in parts),
        num_params=0 if error else sum(part.num_params for _, part in parts),
        modified_s=max(part.mtime_ns for part, _ in parts) // 1_000_000_000,
        error=error,
    )


def _renamed(model: ModelInfo, taken: dict[str, ModelInfo]) -> ModelInfo:
    """Give a model of another folder, whose key is taken, a key of its own: "key~2"."""
    number = 2
    while f"{model.key}~{number}" in taken:
        number += 1
    key = f"{model.key}~{number}"

    def moved(variant: str) -> str:
        return key + variant[len(model.key) :]

    return _replace(
        model,
        key=key,
        variants=tuple(_replace(v, key=moved(v.key)) for v in model.variants),
        selected_variant=moved(model.selected_variant),
    )

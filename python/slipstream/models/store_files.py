"""Puts files into the model folder and takes models out of it. Looks into no other folder than it is told."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from slipstream.base.config import models_folder
from slipstream.base.errors import InvalidRequestError, ModelLoadError, StoreError
from slipstream.models.facts import read_facts
from slipstream.models.names import check_file_part, key_part, split_part, without_quant

if TYPE_CHECKING:
    from slipstream.models.model_info import ModelInfo

ImportMode = Literal["move", "copy", "hard-link", "symbolic-link"]


class ImportPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What an import does.

    Attributes:
        mode: How the files get there.
        files: (from, to), the first one of a split model first.
        size_bytes: Of all of them.
    """

    mode: ImportMode
    files: tuple[tuple[str, str], ...]
    size_bytes: int


def plan_import(file: Path, mode: ImportMode, user_repo: str | None = None) -> ImportPlan:
    """Find out what importing a file means; changes nothing.

    Args:
        file: A .gguf file; of a split model any part of it, all come along.
        mode: How it gets there.
        user_repo: "publisher/model" to put it under, "local/NAME" by default.

    Raises:
        ModelLoadError: the file is no model.
        InvalidRequestError: there is such a file in the model folder already, or the name cannot be one.
    """
    source = file.expanduser().absolute()
    if source.suffix.lower() != ".gguf":
        message = f"{source} is no .gguf file"
        raise InvalidRequestError(message, param="file")
    parts = all_parts(source)
    for part in parts:
        facts = read_facts(part)
        if facts.error:
            message = f"{part} is no usable model: {facts.error}"
            raise ModelLoadError(message, path=str(part))
        if mode == "move" and part.is_symlink():
            message = f"{part} is a link; moving it would leave the file behind: copy or link it"
            raise InvalidRequestError(message, param="file")
    stem, _, count = split_part(source.stem)
    if len(parts) != count:
        message = f"{source} is split into {count} files, of which {len(parts)} are there"
        raise ModelLoadError(message, path=str(source))
    names = (user_repo or f"local/{key_part(without_quant(stem))}").split("/")
    if len(names) != 2:
        message = f"{user_repo!r} is no place for a model; it must be publisher/model"
        raise InvalidRequestError(message, param="user_repo")
    folder = models_folder().absolute().joinpath(*(check_file_part(name) for name in names))
    files = []
    for part in parts:
        target = folder / check_file_part(part.name)
        if target.exists() or target.is_symlink():
            message = f"{target} is there already; remove it first, or give another publisher/model"
            raise InvalidRequestError(message, param="file")
        files.append((str(part), str(target)))
    size = sum(part.stat().st_size for part in parts)
    return ImportPlan(mode=mode, files=tuple(files), size_bytes=size)


def run_import(plan: ImportPlan) -> None:
    """Do it; the first file, which makes it a model, last.

    Raises:
        StoreError: a file cannot be put there; those that were stay.
    """
    for source, target in reversed(plan.files):
        try:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            _place(plan.mode, Path(source), Path(target))
        except OSError as error:
            message = f"{source} cannot be put to {target}: {error.strerror or error}"
            if error.errno == errno.EXDEV:
                message += "; a hard link needs the same disk, take a copy or a symbolic link"
            raise StoreError(message) from error


def _place(mode: ImportMode, source: Path, target: Path) -> None:
    if mode == "hard-link":
        target.hardlink_to(source)
    elif mode == "symbolic-link":
        target.symlink_to(source)
    elif mode == "copy":
        _copy(source, target)
    else:
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(source, target)
            source.unlink()


def _copy(source: Path, target: Path) -> None:
    """Copy under a hidden name first, so that no half model is ever listed."""
    partial = target.with_name(f".{target.name}.part")
    try:
        shutil.copy2(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def all_parts(path: Path) -> list[Path]:
    """Return the files of a model there are: the parts of a split one in order, else the file itself."""
    stem, _, count = split_part(path.stem)
    if count == 1:
        return [path]
    parts = [path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    return [part for part in parts if part.exists()]


def files_to_remove(model: ModelInfo, *, only_selected: bool) -> list[Path]:
    """List what removing a model deletes; changes nothing.

    Args:
        model: Of the store.
        only_selected: Only the selected variant.

    Raises:
        InvalidRequestError: it lies outside of the model folder, which is not ours to delete from.
    """
    variants = [
        variant
        for variant in model.variants
        if not only_selected or variant.key == model.selected_variant
    ]
    files = [part for variant in variants for part in all_parts(Path(variant.path))]
    if model.mmproj and len(variants) == len(model.variants):
        folder = Path(model.mmproj).parent
        if all(path in files or str(path) == model.mmproj for path in folder.glob("*.gguf")):
            files.append(Path(model.mmproj))
    root = models_folder().absolute()
    for file in files:
        if not file.absolute().is_relative_to(root):
            message = f"{file} is not in the model folder {root}; delete it where it belongs"
            raise InvalidRequestError(message, param="model")
    return files


def remove_files(files: list[Path]) -> None:
    """Delete files of the model folder, and the folders that are empty then.

    Raises:
        StoreError: one cannot be deleted.
    """
    root = models_folder().absolute()
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            message = f"{file} cannot be deleted: {error.strerror or error}"
            raise StoreError(message) from error
        for folder in (file.absolute().parent, file.absolute().parent.parent):
            if folder == root or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()

"""From what a user asks for to the files to fetch: repository, quantization, projector, folder. Moves no bytes."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import msgspec
import psutil

from slipstream.base.config import models_folder
from slipstream.base.errors import InvalidRequestError, ModelNotFoundError
from slipstream.models import hub
from slipstream.models.hub import RemoteFile
from slipstream.models.names import (
    MAX_NAME_CHARS,
    check_file_part,
    is_projector,
    preferred,
    quant_of,
    split_part,
    without_quant,
)

_MEMORY_SHARE = 0.8  # of the machine's memory a model's weights may take to be called fitting
_URL_PATH_MARKS = ("resolve", "blob", "tree", "raw")
_PROJECTOR_QUANTS = ("F16", "BF16", "Q8_0", "F32")


class RemoteVariant(msgspec.Struct, frozen=True, kw_only=True):
    """One quantization of a repository.

    Attributes:
        name: The files' common stem.
        quantization: "Q4_K_M", or the stem when it names none.
        files: One, or the parts of a split model in order.
        size_bytes: Of all of them.
        fits: Whether the weights fit this machine's memory.
    """

    name: str
    quantization: str
    files: tuple[RemoteFile, ...]
    size_bytes: int
    fits: bool


class DownloadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be fetched, and where to.

    Attributes:
        name: What was asked for.
        folder: Of the model, absolute, below the model folder.
        files: The model's files, its projector last.
    """

    name: str
    folder: str
    files: tuple[RemoteFile, ...]

    def target(self, file: RemoteFile) -> Path:
        """Return where a file goes."""
        return Path(self.folder) / PurePosixPath(file.name).name


@cache
def catalogue() -> dict[str, str]:
    """Return the built-in catalogue: model key to repository."""
    raw = Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(raw)
    return found


def plan_download(
    name: str, quantization: str | None = None, *, any_host: bool = False
) -> DownloadPlan:
    """Find out what a name means; asks the hub.

    Args:
        name: A key of the catalogue, "user/repo", either with "@quantization", or an address: a repository or
            file of the hub, or any .gguf file if `any_host`.
        quantization: Which one to take; by default the best compromise that fits the memory.
        any_host: Addresses outside of the hub may be fetched. Not for names that come over the network.

    Raises:
        InvalidRequestError: the name cannot be one.
        ModelNotFoundError: there is no such model, file or quantization; the message lists what there is.
        DownloadError: the hub cannot be reached, or refuses.
    """
    if not name or len(name) > MAX_NAME_CHARS or "\0" in name:
        message = f"{name[:80]!r} cannot be downloaded: a name has 1 to {MAX_NAME_CHARS} characters"
        raise InvalidRequestError(message, param="model")
    if "://" in name:
        repo, filename = _hub_address(name) if hub.is_hub_url(name) else (None, None)
        if repo is None:
            return _direct(name, any_host=any_host)
        base, quant = repo, quantization
    else:
        base, _, given = name.partition("@")
        quant, filename = given or quantization, None
    parts = base.split("/")
    repo = catalogue().get(base.lower(), base)
    if len(parts) != 2:
        message = (
            f"{name[:200]!r} cannot be downloaded: give user/repo, user/repo@quantization, an address, or one of "
            f"the catalogue ({', '.join(list(catalogue())[:5])}, …); `slipstream search` finds more"
        )
        raise InvalidRequestError(message, param="model")
    folder = models_folder().joinpath(*(check_file_part(part) for part in parts)).absolute()
    files = hub.list_gguf_files(repo)
    chosen = choose_variant(repo, files, quant, filename)
    for file in chosen:
        check_file_part(PurePosixPath(file.name).name)
    return DownloadPlan(name=name, folder=str(folder), files=tuple(chosen))


def variants_of(name: str) -> list[RemoteVariant]:
    """Ask the hub for the quantizations of a catalogue key or "user/repo", smallest first."""
    return remote_variants(hub.list_gguf_files(catalogue().get(name.lower(), name)))


def remote_variants(files: list[RemoteFile]) -> list[RemoteVariant]:
    """Group a repository's files into quantizations, smallest first; projectors are left out."""
    wholes: dict[str, list[RemoteFile]] = defaultdict(list)
    for file in files:
        stem = PurePosixPath(file.name).name[: -len(".gguf")]
        if not is_projector(stem) and "imatrix" not in stem.lower():
            wholes[split_part(stem)[0]].append(file)
    budget = int(psutil.virtual_memory().total * _MEMORY_SHARE)
    variants = []
    for stem, parts in wholes.items():
        size = sum(part.size_bytes or 0 for part in parts)
        variants.append(
            RemoteVariant(
                name=stem,
                quantization=quant_of(stem) or stem,
                files=tuple(sorted(parts, key=lambda part: part.name)),
                size_bytes=size,
                fits=size <= budget,
            )
        )
    return sorted(variants, key=lambda variant: (variant.size_bytes, variant.name))


def default_variant(variants: list[RemoteVariant]) -> RemoteVariant:
    """Choose what to take where nobody says: the best compromise that fits this machine's memory."""
    budget = int(psutil.virtual_memory().total * _MEMORY_SHARE)
    # a repository may hold several models; drafts and the like have names of their own
    main = without_quant(variants[-1].name).lower()
    own = [variant for variant in variants if without_quant(variant.name).lower() == main]
    return preferred(own, lambda v: v.quantization, lambda v: v.size_bytes, budget)


def choose_variant(
    repo: str, files: list[RemoteFile], quant: str | None, filename: str | None = None
) -> list[RemoteFile]:
    """Choose the files of one quantization and its projector. See `plan_download`."""
    variants = remote_variants(files)
    if not variants:
        message = f"{repo!r} has no GGUF model; look for a repository whose name ends with -GGUF"
        raise ModelNotFoundError(message, param="model")
    if filename is not None:
        found = [v for v in variants if any(file.name == filename for file in v.files)]
    elif quant is not None:
        wanted = quant.upper()
        found = [v for v in variants if wanted in (v.quantization.upper(), v.name.upper())]
    else:
        found = [default_variant(variants)]
    if len(found) != 1:
        names = ", ".join(sorted({variant.quantization for variant in variants}))
        asked = filename or quant
        what = "has no" if not found else f"has {len(found)} files of"
        message = f"{repo!r} {what} {asked!r}; there are: {names}"
        raise ModelNotFoundError(message, param="quantization" if quant else "model")
    return [*found[0].files, *_projector(files)]


def _projector(files: list[RemoteFile]) -> list[RemoteFile]:
    found = [file for file in files if is_projector(PurePosixPath(file.name).name)]

    def rank(file: RemoteFile) -> tuple[int, str]:
        quant = quant_of(PurePosixPath(file.name).stem)
        known = quant in _PROJECTOR_QUANTS
        return (_PROJECTOR_QUANTS.index(quant) if known else len(_PROJECTOR_QUANTS), file.name)

    return sorted(found, key=rank)[:1]


def _hub_address(url: str) -> tuple[str, str | None]:
    """Take a repository's or file's address apart: (repo, file in it or None)."""
    parts = [unquote(part) for part in urlsplit(url).path.split("/") if part]
    if len(parts) < 2 or (len(parts) > 2 and parts[2] not in _URL_PATH_MARKS):
        message = f"{url[:200]!r} is no address of a repository or file of the hub"
        raise InvalidRequestError(message, param="model")
    is_file = len(parts) > 4 and parts[2] != "tree"
    return "/".join(parts[:2]), "/".join(parts[4:]) if is_file else None


def _direct(url: str, *, any_host: bool) -> DownloadPlan:
    if not any_host:
        message = f"{url[:200]!r} is not below {hub.endpoint()}; other addresses can be fetched with `slipstream get`"
        raise InvalidRequestError(message, param="model")
    address = urlsplit(url)
    filename = PurePosixPath(unquote(address.path)).name
    if address.scheme not in ("http", "https") or not filename.lower().endswith(".gguf"):
        message = (
            f"{url[:200]!r} cannot be downloaded: it must be an http(s) address of a .gguf file"
        )
        raise InvalidRequestError(message, param="model")
    check_file_part(filename)
    model = (
        re.sub(r"[^\w.+-]", "-", without_quant(split_part(filename[:-5])[0])).strip(".") or "model"
    )
    folder = models_folder().absolute() / "local" / check_file_part(model)
    return DownloadPlan(
        name=url,
        folder=str(folder),
        files=(RemoteFile(name=filename, url=url, size_bytes=None),),
    )

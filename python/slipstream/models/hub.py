"""The one door to the model hub: search, lists of files, tokens, addresses. Moves no model bytes.

huggingface_hub knows the endpoint (`HF_ENDPOINT`), the token (`HF_TOKEN`, or a login) and `HF_HUB_OFFLINE`. It is
imported when something is asked for, and nothing here is called unless a user wants a search or a download.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from slipstream.base.errors import DownloadError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RESULTS = 100
_REACH_TIMEOUT_S = 10.0


class HubModel(msgspec.Struct, frozen=True, kw_only=True):
    """A repository a search found.

    Attributes:
        repo: "user/name".
        downloads: In the last month.
        likes: Of all time.
        updated: ISO date of the last change, empty when the hub does not tell.
        gated: Its files need a token of someone who accepted the terms.
    """

    repo: str
    downloads: int = 0
    likes: int = 0
    updated: str = ""
    gated: bool = False


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that can be downloaded.

    Attributes:
        name: Path in the repository.
        url: Where its bytes are.
        size_bytes: None when only the download will tell.
        sha256: Of its content, None when the hub does not tell.
    """

    name: str
    url: str
    size_bytes: int | None
    sha256: str | None = None


def search(query: str, limit: int = 20) -> list[HubModel]:
    """Search the hub for repositories with GGUF files, most downloaded first.

    Raises:
        DownloadError: the hub cannot be reached, or refuses.
    """
    with _hub_errors(query):
        found = _api().list_models(
            search=query,
            filter="gguf",
            sort="downloads",
            limit=min(limit, MAX_RESULTS),
            expand=["downloads", "likes", "lastModified", "gated"],
        )
        return [
            HubModel(
                repo=model.id,
                downloads=model.downloads or 0,
                likes=model.likes or 0,
                updated=model.last_modified.date().isoformat() if model.last_modified else "",
                gated=bool(model.gated),
            )
            for model in found
        ]


def list_gguf_files(repo: str, revision: str = "main") -> list[RemoteFile]:
    """List the GGUF files of a repository.

    Raises:
        ModelNotFoundError: there is no such repository or revision.
        DownloadError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import RepoFile, hf_hub_url

    with _hub_errors(repo):
        entries = list(_api().list_repo_tree(repo, recursive=True, revision=revision))
    return [
        RemoteFile(
            name=entry.path,
            url=hf_hub_url(repo, entry.path, revision=revision, endpoint=endpoint()),
            size_bytes=entry.lfs.size if entry.lfs else entry.size,
            sha256=entry.lfs.sha256 if entry.lfs else None,
        )
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path.lower().endswith(".gguf")
    ]


def endpoint() -> str:
    """Return the hub's address, `HF_ENDPOINT` where it is set."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def is_hub_url(url: str) -> bool:
    """Tell whether an address is one of the hub's: same scheme, host and port."""
    ours, theirs = urlsplit(endpoint()), urlsplit(url)
    return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


def request_headers(url: str) -> dict[str, str]:
    """Return the headers to ask for a file with; the token goes to the hub and nowhere else."""
    from huggingface_hub.utils._headers import build_hf_headers

    return dict(
        build_hf_headers(token=None if is_hub_url(url) else False, library_name="slipstream")
    )


def _api() -> Any:
    import httpx2
    from huggingface_hub import HfApi, constants, errors

    # The client would try a dead network for half a minute and log each try; any answer will do here.
    if constants.HF_HUB_OFFLINE:
        raise errors.OfflineModeIsEnabled
    httpx2.head(endpoint(), timeout=_REACH_TIMEOUT_S)
    return HfApi(endpoint=endpoint(), library_name="slipstream")


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn the errors of the hub's client into ours."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        message = (
            f"{what!r} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account "
            "(or run `hf auth login`)"
        )
        raise DownloadError(message, param="model") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        message = f"the hub has no repository {what!r} (or it is private: set HF_TOKEN)"
        raise ModelNotFoundError(message, param="model") from error
    except errors.HFValidationError as error:
        message = f"{what[:200]!r} is no repository name: it must be user/name"
        raise ModelNotFoundError(message, param="model") from error
    except errors.OfflineModeIsEnabled as error:
        message = (
            "HF_HUB_OFFLINE is set, so nothing is asked of the hub; unset it to download or search"
        )
        raise DownloadError(message) from error
    except errors.HfHubHTTPError as error:
        message = f"the hub answered {error.response.status_code} for {what!r}; try again later"
        raise DownloadError(message) from error
    except (httpx2.HTTPError, OSError) as error:
        message = (
            f"the hub at {endpoint()} cannot be reached ({error}); check the network or HF_ENDPOINT"
        )
        raise DownloadError(message) from error

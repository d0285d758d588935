"""What an engine gets besides its model when it is loaded: a projector for images, second tiers of its prefix cache."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.base.errors import ModelLoadError
from slipstream.engine.prefix_files import PrefixFiles
from slipstream.engine.prefix_store import PrefixStore
from slipstream.models.projectors import check_projector_file, find_projector

if TYPE_CHECKING:
    from collections.abc import Callable

    from slipstream.base.load_config import LoadConfig
    from slipstream.engine.llama_runner import LlamaRunner

    StoreMaker = Callable[[Callable[[int], float | None]], PrefixStore]

_log = logging.getLogger(__name__)


def load_projector(runner: LlamaRunner, path: str, config: LoadConfig) -> None:
    """Load the projector of a model, if it has one. One that was only found beside it costs the images, not the model.

    Raises:
        ModelLoadError: the one the config names cannot be used.
    """
    if config.projector is not None:
        if config.projector:
            check_projector_file(config.projector)
            runner.load_projector(config.projector)
        return
    found = find_projector(path)
    if found is None:
        return
    try:
        check_projector_file(found)
        runner.load_projector(found)
    except ModelLoadError as error:
        _log.warning("images cannot be used: %s", error)


def store_maker(runner: LlamaRunner, config: LoadConfig) -> StoreMaker | None:
    """Return what makes the second tiers of a model's prefix cache, None if the config wants none.

    A folder that cannot be used costs the files only, with a warning.
    """
    if not config.prompt_cache_mib:
        return None
    files = None
    if config.prompt_cache is not None:
        folder = Path(config.prompt_cache).expanduser() / runner.state_key
        try:
            files = PrefixFiles(folder, config.prompt_cache_disk_mib << 20)
        except OSError as error:
            _log.warning("prefixes are not kept in %s: %s", folder, error)

    def make(recompute_s: Callable[[int], float | None]) -> PrefixStore:
        return PrefixStore(
            config.prompt_cache_mib << 20,
            files,
            can_trim=runner.info.can_trim,
            recompute_s=recompute_s,
        )

    return make

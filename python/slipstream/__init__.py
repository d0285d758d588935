"""Slipstream: run, serve and measure local language models. Names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slipstream.base.errors import SlipstreamError
    from slipstream.base.load_config import LoadConfig
    from slipstream.base.sampling import SamplingParams
    from slipstream.base.types import (
        FinishReason,
        GenerationSpec,
        OutputFormat,
        Reasoning,
        Speculation,
        ToolCall,
    )
    from slipstream.llm import LLM
    from slipstream.native import Context, LoraAdapter, Model, Sampler, build_info
    from slipstream.runtime.results import GenerationResult

__version__ = "0.1.0"

# Public name to the module that has it. `import slipstream` must stay free of numpy and of the native core.
_HOMES = {
    "LLM": "slipstream.llm",
    "Context": "slipstream.native",
    "FinishReason": "slipstream.base.types",
    "GenerationResult": "slipstream.runtime.results",
    "GenerationSpec": "slipstream.base.types",
    "LoadConfig": "slipstream.base.load_config",
    "LoraAdapter": "slipstream.native",
    "Model": "slipstream.native",
    "OutputFormat": "slipstream.base.types",
    "Reasoning": "slipstream.base.types",
    "Sampler": "slipstream.native",
    "SamplingParams": "slipstream.base.sampling",
    "SlipstreamError": "slipstream.base.errors",
    "Speculation": "slipstream.base.types",
    "ToolCall": "slipstream.base.types",
    "build_info": "slipstream.native",
}

__all__ = [
    "LLM",
    "Context",
    "FinishReason",
    "GenerationResult",
    "GenerationSpec",
    "LoadConfig",
    "LoraAdapter",
    "Model",
    "OutputFormat",
    "Reasoning",
    "Sampler",
    "SamplingParams",
    "SlipstreamError",
    "Speculation",
    "ToolCall",
    "__version__",
    "build_info",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'slipstream' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

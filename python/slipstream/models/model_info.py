"""Plain values about models in the store: what `ls`, the REST API and the loader ask about. Reads nothing."""

from __future__ import annotations

from typing import Literal

import msgspec


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can be used for.

    Attributes:
        tool_use: Its chat template knows tools.
        vision: A projector file for images lies beside it.
        reasoning: Its chat template knows thinking.
        reasoning_levels: It knows how much: low, medium, high.
        embedding: It gives vectors instead of text.
        rerank: It gives one relevance per text.
    """

    tool_use: bool = False
    vision: bool = False
    reasoning: bool = False
    reasoning_levels: bool = False
    embedding: bool = False
    rerank: bool = False


class ModelVariant(msgspec.Struct, frozen=True, kw_only=True):
    """One file, or one set of split files, of a model.

    Attributes:
        key: The model's key, "@" and the quantization: "qwen/qwen3-8b@q4_k_m".
        path: The file, the first one of a split model.
        quantization: As the file name or its header says ("Q4_K_M"), empty when neither does.
        size_bytes: Of all its files.
        num_params: Weights in all its files, 0 when it is broken.
        modified_s: Unix time of the last change.
        error: Why it cannot be used, None if it can.
    """

    key: str
    path: str
    quantization: str
    size_bytes: int
    num_params: int
    modified_s: int
    error: str | None = None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the store: what `key` means now, and what else it could mean.

    Attributes:
        key: Unique in the store, lower case: "publisher/model".
        publisher: Whose it is, by the folder; "local" for a file that lies by itself.
        display_name: The model's own name, or the key's last part.
        type: "llm" or "embedding".
        path: The file `key` means: of the selected variant.
        size_bytes: Of the selected variant.
        architecture: llama.cpp's name of the family, empty when it is broken.
        num_params: Number of weights, 0 when it is broken.
        quantization: Of the selected variant.
        context_length: Tokens it was trained for, 0 when the file does not say.
        capabilities: See Capabilities.
        num_experts: Experts a token is sent to, 0 for a model without.
        variants: Every quantization of it, the selected one too.
        selected_variant: Key of the one `key` means.
        mmproj: The projector file for images, None without one.
        state: "broken" when the selected variant cannot be used, which means that none can.
        error: Why it is broken.
    """

    key: str
    publisher: str
    display_name: str
    type: Literal["llm", "embedding"]
    path: str
    size_bytes: int
    architecture: str
    num_params: int
    quantization: str
    context_length: int
    capabilities: Capabilities
    variants: tuple[ModelVariant, ...]
    selected_variant: str
    num_experts: int = 0
    mmproj: str | None = None
    state: Literal["ready", "broken"] = "ready"
    error: str | None = None

    @property
    def modified_s(self) -> int:
        """Unix time of the last change of the selected variant, 0 when it is gone."""
        times = [v.modified_s for v in self.variants if v.key == self.selected_variant]
        return times[0] if times else 0

    @property
    def bits_per_weight(self) -> float | None:
        """Bits on disk for one weight of the selected variant, None when it is unknown."""
        return round(self.size_bytes * 8 / self.num_params, 2) if self.num_params else None

    @property
    def params_string(self) -> str:
        """The number of weights the way people say it: "8.2B", "135M", empty when it is unknown."""
        for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
            if self.num_params >= unit:
                return f"{self.num_params / unit:.3g}{letter}"
        return str(self.num_params or "")

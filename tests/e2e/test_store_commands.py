"""The commands of the store, run as a user runs them: get and search against a hub on loopback, ls, import, rm."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from slipstream.base.config import models_folder
from tests.e2e.test_downloads import MODEL, REPO, hub  # noqa: F401 - a fixture

pytestmark = pytest.mark.e2e


def slipstream(*words, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "slipstream", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.usefixtures("hub")
def test_get_prints_the_path_and_ls_shows_the_model():
    path = slipstream("get", REPO, "--quant", "q8_0").stdout.strip()
    assert path == str(models_folder() / REPO / "nice-Q8_0.gguf")
    (model,) = json.loads(slipstream("ls", "--json").stdout)
    assert (model["key"], model["path"], model["state"]) == ("org/nice", path, "ready")
    table = slipstream("ls", "--variants").stdout
    assert "org/nice@q8_0" in table
    again = json.loads(slipstream("get", f"{REPO}@Q8_0", "--json").stdout)
    assert again["status"] == "already_downloaded"


@pytest.mark.usefixtures("hub")
def test_words_are_searched_for():
    assert json.loads(slipstream("search", "nice", "--json").stdout)[0]["repo"] == REPO
    assert REPO in slipstream("search", "nice").stdout
    assert REPO in slipstream("get", "nice", status=1).stderr
    assert slipstream("get", "nice", "--yes").stdout.strip().endswith("nice-Q4_K_M.gguf")


def test_a_failed_download_ends_with_one_line(hub):  # noqa: F811
    hub.announced["nice-Q4_K_M.gguf"] = bytes(len(MODEL))
    done = slipstream("get", REPO, status=1)
    assert done.stderr.startswith("slipstream: ")
    assert "sha256" in done.stderr
    assert "no repository" in slipstream("get", "nobody/nothing", status=1).stderr


def test_import_and_rm(tmp_path):
    file = tmp_path / "mine-Q4_0.gguf"
    file.write_bytes(MODEL)
    assert "would copy" in slipstream("import", str(file), "--copy", "--dry-run").stdout
    assert json.loads(slipstream("ls", "--json").stdout) == []
    slipstream("import", str(file), "--copy", "--user-repo", "me/mine")
    assert "me/mine" in slipstream("ls").stdout
    assert "give one of" in slipstream("import", str(file), "-c", "-l", status=1).stderr
    assert "--yes" in slipstream("rm", "me/mine", status=1).stderr
    (deleted,) = json.loads(slipstream("rm", "me/mine", "--yes", "--json").stdout)
    assert deleted.endswith("me/mine/mine-Q4_0.gguf")
    assert "no models yet" in slipstream("ls").stderr
    assert file.exists()


def test_ls_shows_a_broken_file_and_the_rest():
    for name, raw in (("bad", b"GGUF"), ("good", MODEL)):
        folder = models_folder() / "p" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.gguf").write_bytes(raw)
    table = slipstream("ls").stdout
    assert "broken:" in table
    assert "p/good" in table
    assert slipstream("ls", "--embedding").stderr.startswith("no models")

"""What a load asks for, as far as it can be judged without a model."""

import pytest

from slipstream.base import load_config
from slipstream.base.load_config import LoadConfig


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"draft_model": "d.gguf", "verify": "distribution"},
        {"draft_model": "d.gguf", "speculation": "draft"},
        {"share_ngrams": True, "speculation": "ngram"},
        {"speculation": "off"},
    ],
)
def test_settings_that_have_an_effect_are_not_warned_of(settings):
    assert LoadConfig(**settings).idle_settings == []


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"verify": "distribution"}, ["verify"]),
        ({"draft_model": "d.gguf", "speculation": "ngram"}, ["draft_model"]),
        (
            {"draft_model": "d.gguf", "speculation": "off", "verify": "distribution"},
            ["draft_model", "verify"],
        ),
        ({"share_ngrams": True, "speculation": "off"}, ["share_ngrams"]),
        ({"share_ngrams": True, "speculation": "draft", "draft_model": "d"}, ["share_ngrams"]),
    ],
)
def test_settings_without_effect_are_named(settings, names):
    reasons = LoadConfig(**settings).idle_settings
    assert [reason.split()[0] for reason in reasons] == names


@pytest.mark.parametrize(
    ("cpu", "parallel", "is_repacked"),
    [("x86_64", 1, False), ("AMD64", 1, False), ("aarch64", 1, True), ("aarch64", 4, False)],
)
def test_ggml_rearranges_weights_where_our_kernels_do_not_run(
    monkeypatch, cpu, parallel, is_repacked
):
    monkeypatch.setattr(load_config, "machine", lambda: cpu)
    assert LoadConfig(parallel=parallel).is_repacked == is_repacked
    for wanted in (True, False):
        assert LoadConfig(parallel=parallel, repack=wanted).is_repacked == wanted


def test_huge_pages_are_for_weights_that_are_mapped_and_not_locked():
    assert LoadConfig().uses_huge_pages
    for settings in ({"huge_pages": False}, {"mmap": False}, {"keep_in_memory": True}):
        assert not LoadConfig(**settings).uses_huge_pages

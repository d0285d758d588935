"""What a load asks for, as far as it can be judged without a model."""

import pytest

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

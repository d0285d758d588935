"""Predictions: rounds of a replay times costs, of one request and of several that share their steps."""

from random import Random

import pytest

from slipstream.benchmark.pair.acceptance import Reading, replay
from slipstream.benchmark.pair.costs import Costs
from slipstream.benchmark.pair.data import TARGET, Block, Measured
from slipstream.benchmark.pair.live import Text
from slipstream.benchmark.pair.plan import NGRAM, PairSettings
from slipstream.benchmark.pair.predict import Predictor
from slipstream.benchmark.pair.scan import DraftScan


def text(name, output, **more):
    return Text(name=name, category="chat", prompt=[1], output=list(output), **more)


def scan(tokens, *, confidences=None, **chances):
    return DraftScan(tokens=list(tokens), confidences=confidences or [1.0] * len(tokens), **chances)


def predictor(texts, scans, *, temperature=0.0, verify="exact", ngrams=None):
    """A target that takes 10 s and 2 s a further row, and a draft model of 1 s and 0.5 s a further row."""
    measured = Measured(
        texts={temperature: {t.name: t for t in texts}},
        scans={("d", temperature, name): found for name, found in scans.items()},
        ngrams={(temperature, name): found for name, found in (ngrams or {}).items()},
        costs={
            TARGET: Costs(samples={n: [8.0 + 2 * n] for n in range(1, 20)}),
            # It was timed when everything took twice as long.
            "d": Costs(samples={n: [1.0 + n] for n in range(1, 9)}, step=[20.0]),
        },
    )
    settings = PairSettings(temperatures=(temperature,), num_tokens=100, verify=verify)
    return Predictor(measured, settings)


def test_costs_are_those_of_the_rounds_by_hand():
    # Behind the first token: 2 drafts right; a wrong one; one right, and the end.
    texts = [text("a", [1, 2, 3, 4, 5, 6])]
    found = predictor(texts, {"a": scan([1, 2, 3, 4, 0, 6])}).predict("d", 0.0, 2)
    assert found.acceptance.tau == pytest.approx(6 / 3)
    plain_s = 6 * 10
    # The second round begins with the last draft of the first, too: it was accepted, and is not computed yet.
    drafted_s = (1 + 1 + 14) + (1.5 + 1 + 14) + (1 + 12)
    assert found.speedup == pytest.approx(plain_s / drafted_s)
    assert found.plain_tokens_per_s == pytest.approx(6 / plain_s)


def test_requests_at_the_same_time_share_their_steps_until_they_end():
    texts = [text("a", [1, 2, 3]), text("b", [1, 2, 3, 4, 5])]
    scans = {"a": scan([0, 0, 0]), "b": scan([1, 2, 3, 4, 5])}
    found = predictor(texts, scans).predict("d", 0.0, 1, batch=2)
    plain_s = 2 * 12 + 2 * 10
    # Two rounds of both: the second of "a" drafts once more and is wrong again.
    drafted_s = (1.5 + 16) + (2 + 16)
    assert found.speedup == pytest.approx(plain_s / drafted_s)


def test_a_cut_pays_for_the_token_that_falls_below_it():
    texts = [text("a", [1, 2])]
    found = predictor(texts, {"a": scan([1, 0], confidences=[1.0, 0.1])})
    assert found.predict("d", 0.0, 1, cut=0.5).speedup == pytest.approx(10 / 11)
    assert found.predict("d", 0.0, 1).speedup == pytest.approx(10 / 13)


def test_ngrams_cost_nothing_to_draft():
    texts = [text("a", [1, 2, 3])]
    found = predictor(texts, {}, ngrams={"a": Reading((0, 1, 0), (0, 1, 0))})
    assert found.predict(NGRAM, 0.0, 3).speedup == pytest.approx(20 / 12)
    assert found.predict("d", 0.0, 3) is None  # nothing was read


def test_the_rejection_rule_accepts_by_the_overlap_of_the_distributions():
    texts = [text("a", [1, 2, 3])]
    scans = {"a": scan([1, 2, 3], chances=[0.0] * 3, overlaps=[1.0] * 3, point=[0.5] * 3)}
    exact, drawn = (
        predictor(texts, scans, temperature=0.8, verify=verify).predict("d", 0.8, 1)
        for verify in ("exact", "distribution")
    )
    assert exact.acceptance.alpha == 0.0
    assert drawn.acceptance.alpha == 1.0


def test_what_the_engine_adds_to_a_step_makes_drafts_worth_more():
    texts = [text("a", [1, 2, 3], overhead_s=2.0)]
    found = predictor(texts, {}, ngrams={"a": Reading((0, 1, 0), (0, 1, 0))})
    assert found.overhead == pytest.approx(0.2)
    assert found.predict(NGRAM, 0.0, 3).speedup == pytest.approx(24 / 14)


def block(names, target, draft):
    """A live block along with which the target's steps took so long, by rows, and the draft model's, by rows."""
    costs = [
        Costs(samples={n: [target(n)] for n in (1, 2, 3, 4)}, step=[target(1)]),
        Costs(samples={n: [draft(n)] for n in (1, 2)}, step=[target(1)]),
    ]
    return Block(
        candidate="d", temperature=0.0, batch=1, number=0, category="chat", names=list(names), arms={},
        costs=[c.to_json() for c in costs],
    )  # fmt: skip


def test_only_the_prompts_of_the_live_blocks_are_foretold():
    texts = [text("a", [1, 2, 3]), text("b", [1, 2, 3])]
    found = predictor(texts, {"a": scan([1, 2, 3]), "b": scan([0, 0, 0])})
    only_a = block("a", lambda n: 8.0 + 2 * n, lambda n: n / 2)
    assert found.predict("d", 0.0, 1, blocks=[only_a]).acceptance.alpha == 1.0
    assert found.predict("d", 0.0, 1).acceptance.alpha == pytest.approx(1 / 3)


def test_a_machine_that_changes_its_speed_is_foretold_at_the_costs_of_each_block():
    """Costs were timed while rows were dear. Since then it has been in that state for one block in four."""
    random = Random(1)
    texts = [text(f"t{i}", range(1, 65)) for i in range(24)]
    scans = {
        t.name: scan([token if random.random() < 0.9 else 0 for token in t.output]) for t in texts
    }
    found = predictor(texts, scans)
    blocks, plain_s, drafted_s = [], 0.0, 0.0
    for number, one in enumerate(texts):
        is_dear = number % 4 == 0
        plain, row, draft = (10.0, 2.0, 0.5) if is_dear else (13.0, 0.5, 0.4)
        noise = [random.uniform(0.97, 1.03) for _ in range(4)]
        # What the engine does: each round drafts three and verifies them, and its first token comes with the prompt.
        rounds = replay(found._measured.readings("d", one, 0.0)[0], 3)
        plain_s += sum(accepted + 1 for _, accepted in rounds) * plain * noise[0]
        for place, (offered, _) in enumerate(rounds):
            before = rounds[place - 1] if place else (0, 0)
            catches_up = offered > 0 and before[0] > 0 and before[0] == before[1]
            drafted_s += (plain + offered * row + (offered + catches_up) * draft) * noise[1]
        blocks.append(
            block(
                [one.name],
                lambda n, plain=plain, row=row, k=noise[2]: (plain + (n - 1) * row) * k,
                lambda n, draft=draft, k=noise[3]: n * draft * k,
            )
        )
    measured = plain_s / drafted_s
    assert found.predict("d", 0.0, 3, blocks=blocks).speedup == pytest.approx(measured, rel=0.02)
    assert found.predict("d", 0.0, 3).speedup < 0.9 * measured


def test_a_batch_without_room_for_the_drafts_has_no_prediction():
    found = predictor([text("a", [1, 2])], {"a": scan([1, 2])})
    assert found.predict("d", 0.0, 8, batch=8) is None

"""Cells, sequence ids and cached prefixes."""

import random

import pytest

from slipstream.engine.kv_cache import KVCache
from slipstream.engine.runner import RunnerInfo


class Memory:
    """What a runner would hold: the number of tokens per sequence."""

    def __init__(
        self, *, num_kv_cells=100, max_num_seqs=3, can_trim=True, honest=True, can_share=False
    ):
        self.info = RunnerInfo(
            num_kv_cells, max_num_seqs, 32, 64, can_trim, 1000, can_share=can_share
        )
        self.trims = []
        self.copies = []
        self.can_trim = can_trim and honest
        self.cache = KVCache(self)

    def trim(self, seq_id, num_tokens):
        self.trims.append((seq_id, num_tokens))
        return self.can_trim or num_tokens == 0

    def copy_prefix(self, source, seq_id, num_tokens):
        self.copies.append((source, seq_id, num_tokens))
        return True

    def allocate(self, token_ids):
        return self.cache.allocate(token_ids, self.cache.find(token_ids))

    def start(self, token_ids):
        """A request that computes `token_ids`."""
        token_ids = list(token_ids)
        seq_id, num_cached = self.allocate(token_ids)
        self.cache.append(seq_id, len(token_ids) - num_cached)
        return seq_id, num_cached

    def run(self, token_ids):
        """A request that computes `token_ids` and ends."""
        seq_id, num_cached = self.start(token_ids)
        self.cache.release(seq_id)
        return seq_id, num_cached


def test_a_finished_sequence_is_reused_by_a_longer_prompt():
    memory = Memory()
    seq_id, _ = memory.run([1, 2, 3, 4])
    assert memory.allocate([1, 2, 3, 4, 5, 6]) == (seq_id, 4)
    assert memory.trims == []


def test_the_rest_beyond_the_common_prefix_is_trimmed():
    memory = Memory()
    seq_id, _ = memory.run([1, 2, 3, 4])
    assert memory.allocate([1, 2, 9]) == (seq_id, 2)
    assert memory.trims == [(seq_id, 2)]


@pytest.mark.parametrize("can_trim", [True, False])
def test_one_token_is_always_left_to_compute(can_trim):
    memory = Memory(can_trim=can_trim)
    memory.run([1, 2, 3])
    _, num_cached = memory.allocate([1, 2, 3])
    assert num_cached == (2 if can_trim else 0)


def test_the_longest_common_prefix_wins():
    memory = Memory()
    first, second = memory.allocate([1, 2, 8])[0], memory.allocate([1, 2, 3, 4, 5])[0]
    memory.cache.append(first, 3)
    memory.cache.append(second, 5)
    memory.cache.release(second)
    memory.cache.release(first)
    assert memory.allocate([1, 2, 3, 4, 7]) == (second, 4)
    assert memory.allocate([1, 2, 3, 4, 7]) == (first, 2)


def test_a_long_conversation_is_not_lost_to_a_short_common_beginning():
    memory = Memory()
    memory.run([1, 2, *range(10, 60)])
    seq_id, num_cached = memory.allocate([1, 2, 3, 4])
    assert num_cached == 0
    assert memory.cache.idle_sequences().keys() == {0}
    assert seq_id != 0


def test_without_an_empty_sequence_the_least_recently_used_is_taken_with_what_it_shares():
    memory = Memory(max_num_seqs=2)
    memory.run([1, *range(10, 60)])
    memory.run([5, 6])
    assert memory.allocate([1, 2]) == (0, 1)
    assert memory.trims == [(0, 1)]


def test_no_sequence_is_given_when_all_are_live():
    memory = Memory(max_num_seqs=2)
    assert memory.allocate([1]) is not None
    assert memory.allocate([2]) is not None
    assert memory.allocate([3]) is None


def test_memory_that_cannot_be_trimmed_is_reused_only_whole():
    memory = Memory(can_trim=False)
    seq_id, _ = memory.run([1, 2, 3])
    assert memory.allocate([1, 2, 3, 4]) == (seq_id, 3)
    memory.cache.append(seq_id, 1)
    memory.cache.release(seq_id)
    assert memory.allocate([1, 2, 3, 9])[1] == 0
    assert all(num_tokens == 0 for _, num_tokens in memory.trims)


def test_a_trim_that_fails_after_all_clears_the_sequence():
    memory = Memory(honest=False)
    seq_id, _ = memory.run([1, 2, 3, 4])
    assert memory.allocate([1, 2, 9]) == (seq_id, 0)
    assert memory.trims == [(seq_id, 2), (seq_id, 0)]
    memory.cache.check_integrity({seq_id: 0})


def test_room_is_made_from_the_least_recently_used_first():
    memory = Memory(num_kv_cells=30)
    for first in (100, 200, 300):
        memory.run(range(first, first + 10))
    memory.cache.check_integrity({})
    assert memory.cache.num_free_cells == 0
    assert memory.cache.make_room(5) == 10
    assert [token_ids[0] for token_ids in memory.cache.idle_sequences().values()] == [200, 300]


def test_room_is_made_only_as_far_as_live_sequences_allow():
    memory = Memory(num_kv_cells=30)
    seq_id, _ = memory.allocate([1])
    memory.cache.append(seq_id, 20)
    memory.run([5] * 8)
    assert memory.cache.fits(10)
    assert not memory.cache.fits(11)
    assert memory.cache.make_room(15) == 10


def test_a_used_prefix_becomes_recent_again():
    memory = Memory(num_kv_cells=30)
    memory.run([1] * 5)
    memory.run([2] * 5)
    memory.run([1] * 6)
    assert [token_ids[0] for token_ids in memory.cache.idle_sequences().values()] == [2, 1]


def test_a_cleared_sequence_stays_live_and_is_empty_after_release():
    memory = Memory()
    seq_id, _ = memory.allocate([1, 2])
    memory.cache.append(seq_id, 2)
    memory.cache.clear(seq_id)
    memory.cache.check_integrity({seq_id: 0})
    memory.cache.release(seq_id)
    assert memory.cache.idle_sequences() == {}


def test_reset_forgets_everything():
    memory = Memory()
    memory.run([1, 2, 3])
    memory.cache.append(memory.allocate([7])[0], 1)
    memory.cache.reset()
    memory.cache.check_integrity({})
    assert memory.cache.num_free_cells == 100
    assert {(seq_id, 0) for seq_id in range(3)} <= set(memory.trims)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 511, 512, 700])
def test_common_prefixes_of_any_length_are_found(length):
    memory = Memory(num_kv_cells=4000)
    memory.run([*range(length), 5000, 5000])
    assert memory.allocate([*range(length), 6000, 6000, 6000])[1] == length


def shared(**limits):
    return Memory(**{"max_num_seqs": 6, "can_share": True, **limits})


def test_a_prefix_of_a_live_sequence_is_shared_and_counts_once():
    memory = shared()
    first, _ = memory.start(range(40))
    second, num_cached = memory.allocate([*range(30), 90, 91])
    assert num_cached == 30
    assert memory.copies == [(first, second, 30)]
    assert (memory.cache.num_live_cells, memory.cache.num_free_cells) == (40, 60)
    memory.cache.append(second, 2)
    assert memory.cache.num_live_cells == 42
    memory.cache.clear(first)
    assert memory.cache.num_live_cells == 32
    memory.cache.check_integrity({first: 0, second: 32})


def test_a_cached_conversation_lends_its_prefix_and_stays():
    memory = shared()
    conversation = [1, 2, 3, *range(10, 60)]
    first, _ = memory.run(conversation)
    second, num_cached = memory.start([1, 2, 3, 4])
    assert (num_cached, second != first) == (3, True)
    assert memory.cache.idle_sequences() == {first: conversation}
    assert (memory.cache.num_live_cells, memory.cache.num_idle_cells) == (4, 50)


def test_a_cached_prefix_that_goes_on_is_taken_over_not_shared():
    memory = shared()
    first, _ = memory.run(range(40))
    assert memory.allocate([*range(40), 90, 91]) == (first, 40)
    assert memory.copies == memory.trims == []


def test_without_an_empty_sequence_little_is_lost_by_taking_over():
    memory = shared(max_num_seqs=2)
    first, _ = memory.run(range(40))
    memory.run([70, 71])
    assert memory.allocate([*range(38), 90, 91]) == (first, 38)
    assert memory.copies == []
    assert memory.trims == [(first, 38)]


def test_what_another_sequence_holds_entirely_is_not_kept_twice():
    memory = shared()
    first, _ = memory.start(range(40))
    second, num_cached = memory.allocate([*range(30), 90])
    assert num_cached == 30
    memory.cache.release(second)
    assert memory.cache.idle_sequences() == {}
    memory.cache.release(first)
    assert memory.cache.idle_sequences() == {first: list(range(40))}


def test_without_an_empty_sequence_the_least_recently_used_gives_way_to_a_shared_prefix():
    memory = shared(max_num_seqs=3, num_kv_cells=200)
    memory.run([70, 71])
    memory.run(range(50))
    memory.run([80, 81])
    assert memory.start([*range(10), 99]) == (0, 10)
    assert memory.copies == [(1, 0, 10)]
    assert memory.trims == [(0, 0)]


def test_eviction_frees_what_no_one_else_holds():
    memory = shared(num_kv_cells=60)
    memory.run(range(30))
    memory.run([*range(10), *range(40, 60)])
    live, _ = memory.start([*range(10), 99])
    assert memory.cache.num_free_cells == 60 - 51
    assert memory.cache.make_room(29) == 60 - 31
    assert memory.cache.make_room(60) == 60 - 11
    assert not memory.cache.evict()
    memory.cache.check_integrity({live: 11})


def test_only_what_nobody_has_computed_needs_room():
    memory = shared(num_kv_cells=50)
    memory.start(range(30))
    memory.run([5] * 8)
    assert memory.cache.find([*range(20), 99]).num_live_cells == 20
    assert memory.cache.find([5, 5, 5]).num_live_cells == 0


def test_a_sequence_that_was_emptied_gets_its_prefix_again():
    memory = shared()
    memory.start(range(40))
    prompt = [*range(30), 90, 91]
    second, _ = memory.start(prompt)
    memory.cache.clear(second)
    assert memory.cache.share(second, memory.cache.find(prompt)) == 30
    memory.cache.check_integrity({0: 40, second: 30})


@pytest.mark.parametrize("kind", ["plain", "no_trim", "share"])
def test_the_accounts_stay_right_in_random_runs(kind):
    rng = random.Random(11)
    memory = Memory(
        num_kv_cells=60, max_num_seqs=5, can_trim=kind != "no_trim", can_share=kind == "share"
    )
    cache, live = memory.cache, {}
    for _ in range(3000):
        action = rng.randrange(6)
        seq_id = rng.choice(list(live)) if live else None
        if action == 0:
            prompt = [rng.randrange(2) for _ in range(rng.randint(1, 12))]
            allocation = memory.allocate(prompt)
            assert (allocation is None) == (len(live) == 5)
            if allocation is not None:
                seq_id, num_cached = allocation
                assert num_cached < len(prompt)
                del prompt[num_cached:]
                live[seq_id] = prompt
        elif action == 1 and live:
            num_tokens = rng.randint(1, 4)
            if cache.make_room(num_tokens) >= num_tokens:
                live[seq_id] += [rng.randrange(2) for _ in range(num_tokens)]
                cache.append(seq_id, num_tokens)
        elif action == 2 and live:
            cache.release(seq_id)
            del live[seq_id]
        elif action == 3 and live:
            cache.clear(seq_id)
            live[seq_id] = type(live[seq_id])()
            cache._tree.rename(seq_id, live[seq_id])
        elif action == 4:
            cache.evict()
        elif action == 5 and live and kind == "share" and live[seq_id]:
            num_kept = rng.randrange(len(live[seq_id]))
            cache.truncate(seq_id, num_kept)
            live[seq_id] = live[seq_id][:num_kept]
            cache._tree.rename(seq_id, live[seq_id])
        cache.check_integrity({seq_id: len(tokens) for seq_id, tokens in live.items()})
    assert (len(memory.copies) > 100) == (kind == "share")

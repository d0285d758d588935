"""Cells, sequence ids and cached prefixes."""

import random

import pytest

from slipstream.engine.kv_cache import KVCache
from slipstream.engine.runner import RunnerInfo


class Memory:
    """What a runner would hold: the number of tokens per sequence."""

    def __init__(self, *, num_kv_cells=100, max_num_seqs=3, can_trim=True, honest=True):
        self.info = RunnerInfo(num_kv_cells, max_num_seqs, 32, 64, can_trim, 1000)
        self.trims = []
        self.can_trim = can_trim and honest
        self.cache = KVCache(self.info, self.trim)

    def trim(self, seq_id, num_tokens):
        self.trims.append((seq_id, num_tokens))
        return self.can_trim or num_tokens == 0

    def run(self, token_ids):
        """A request that computes `token_ids` and ends."""
        seq_id, num_cached = self.cache.allocate(token_ids)
        self.cache.append(seq_id, len(token_ids) - num_cached)
        self.cache.release(seq_id, list(token_ids))
        return seq_id, num_cached


def test_a_finished_sequence_is_reused_by_a_longer_prompt():
    memory = Memory()
    seq_id, _ = memory.run([1, 2, 3, 4])
    assert memory.cache.allocate([1, 2, 3, 4, 5, 6]) == (seq_id, 4)
    assert memory.trims == []


def test_the_rest_beyond_the_common_prefix_is_trimmed():
    memory = Memory()
    seq_id, _ = memory.run([1, 2, 3, 4])
    assert memory.cache.allocate([1, 2, 9]) == (seq_id, 2)
    assert memory.trims == [(seq_id, 2)]


@pytest.mark.parametrize("can_trim", [True, False])
def test_one_token_is_always_left_to_compute(can_trim):
    memory = Memory(can_trim=can_trim)
    memory.run([1, 2, 3])
    _, num_cached = memory.cache.allocate([1, 2, 3])
    assert num_cached == (2 if can_trim else 0)


def test_the_longest_common_prefix_wins():
    memory = Memory()
    first, second = memory.cache.allocate([1, 2, 8])[0], memory.cache.allocate([1, 2, 3, 4, 5])[0]
    memory.cache.append(first, 3)
    memory.cache.append(second, 5)
    memory.cache.release(second, [1, 2, 3, 4, 5])
    memory.cache.release(first, [1, 2, 8])
    assert memory.cache.allocate([1, 2, 3, 4, 7]) == (second, 4)
    assert memory.cache.allocate([1, 2, 3, 4, 7]) == (first, 2)


def test_a_long_conversation_is_not_lost_to_a_short_common_beginning():
    memory = Memory()
    memory.run([1, 2, *range(10, 60)])
    seq_id, num_cached = memory.cache.allocate([1, 2, 3, 4])
    assert num_cached == 0
    assert memory.cache.idle_sequences().keys() == {0}
    assert seq_id != 0


def test_without_an_empty_sequence_the_least_recently_used_is_taken_with_what_it_shares():
    memory = Memory(max_num_seqs=2)
    memory.run([1, *range(10, 60)])
    memory.run([5, 6])
    assert memory.cache.allocate([1, 2]) == (0, 1)
    assert memory.trims == [(0, 1)]


def test_no_sequence_is_given_when_all_are_live():
    memory = Memory(max_num_seqs=2)
    assert memory.cache.allocate([1]) is not None
    assert memory.cache.allocate([2]) is not None
    assert memory.cache.allocate([3]) is None


def test_memory_that_cannot_be_trimmed_is_reused_only_whole():
    memory = Memory(can_trim=False)
    seq_id, _ = memory.run([1, 2, 3])
    assert memory.cache.allocate([1, 2, 3, 4]) == (seq_id, 3)
    memory.cache.append(seq_id, 1)
    memory.cache.release(seq_id, [1, 2, 3, 4])
    assert memory.cache.allocate([1, 2, 3, 9])[1] == 0
    assert all(num_tokens == 0 for _, num_tokens in memory.trims)


def test_a_trim_that_fails_after_all_clears_the_sequence():
    memory = Memory(honest=False)
    seq_id, _ = memory.run([1, 2, 3, 4])
    assert memory.cache.allocate([1, 2, 9]) == (seq_id, 0)
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
    seq_id, _ = memory.cache.allocate([1])
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
    seq_id, _ = memory.cache.allocate([1, 2])
    memory.cache.append(seq_id, 2)
    memory.cache.clear(seq_id)
    memory.cache.check_integrity({seq_id: 0})
    memory.cache.release(seq_id, [])
    assert memory.cache.idle_sequences() == {}


def test_reset_forgets_everything():
    memory = Memory()
    memory.run([1, 2, 3])
    memory.cache.append(memory.cache.allocate([7])[0], 1)
    memory.cache.reset()
    memory.cache.check_integrity({})
    assert memory.cache.num_free_cells == 100
    assert {(seq_id, 0) for seq_id in range(3)} <= set(memory.trims)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 511, 512, 700])
def test_common_prefixes_of_any_length_are_found(length):
    memory = Memory(num_kv_cells=4000)
    memory.run([*range(length), 5000, 5000])
    assert memory.cache.allocate([*range(length), 6000, 6000, 6000])[1] == length


@pytest.mark.parametrize("can_trim", [True, False])
def test_the_accounts_stay_right_in_random_runs(can_trim):
    rng = random.Random(11)
    memory = Memory(num_kv_cells=60, max_num_seqs=5, can_trim=can_trim)
    live = {}
    for _ in range(3000):
        action = rng.randrange(5)
        if action == 0:
            prompt = [rng.randrange(2) for _ in range(rng.randint(1, 12))]
            allocation = memory.cache.allocate(prompt)
            assert (allocation is None) == (len(live) == 5)
            if allocation is not None:
                seq_id, num_cached = allocation
                assert num_cached < len(prompt)
                live[seq_id] = prompt[:num_cached]
        elif action == 1 and live:
            seq_id = rng.choice(list(live))
            num_tokens = rng.randint(1, 4)
            if memory.cache.make_room(num_tokens) >= num_tokens:
                memory.cache.append(seq_id, num_tokens)
                live[seq_id] += [rng.randrange(2) for _ in range(num_tokens)]
        elif action == 2 and live:
            seq_id = rng.choice(list(live))
            memory.cache.release(seq_id, live.pop(seq_id))
        elif action == 3 and live:
            seq_id = rng.choice(list(live))
            memory.cache.clear(seq_id)
            live[seq_id] = []
        elif action == 4:
            memory.cache.evict()
        memory.cache.check_integrity({seq_id: len(tokens) for seq_id, tokens in live.items()})

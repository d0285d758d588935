"""Which states are kept in host memory and in files, which come back, and what gives way to what."""

from slipstream.engine.prefix_files import PrefixFiles
from slipstream.engine.prefix_store import PrefixStore

BYTES_PER_TOKEN = 10


class Clock:
    """Every look at it takes a second."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


def make_store(max_bytes=1000, files=None, *, can_trim=True, recompute_s=lambda n: 1e6 * n):
    return PrefixStore(
        max_bytes, files, can_trim=can_trim, recompute_s=recompute_s, least_tokens=4, clock=Clock()
    )


def text(family, num_tokens):
    return [family] * 4 + list(range(num_tokens - 4))


def put(store, token_ids, num_bytes=None):
    """Keep a state; returns whether it was, and how often it was saved."""
    saves = []

    def save():
        saves.append(1)
        return bytes(BYTES_PER_TOKEN * len(token_ids) if num_bytes is None else num_bytes)

    is_kept = store.put(token_ids, save)
    store.check_integrity()
    return is_kept, len(saves)


def found(store, token_ids, num_found=0):
    match = store.find(token_ids, num_found)
    return match and match[1]


def test_the_longest_common_prefix_is_found_and_one_token_is_left_to_compute():
    store = make_store()
    put(store, text(1, 10))
    put(store, [*text(1, 6), 99, 98, 97])
    assert found(store, [*text(1, 10), 5]) == 10
    assert found(store, text(1, 10)) == 9
    assert found(store, [*text(1, 6), 99, 5]) == 7
    assert found(store, text(2, 10)) is None


def test_without_cutting_only_a_whole_state_is_of_use():
    store = make_store(can_trim=False)
    put(store, text(1, 10))
    assert found(store, [*text(1, 10), 5]) == 10
    assert found(store, [*text(1, 8), 99]) is None


def test_what_the_cells_have_nearly_all_of_is_not_brought_back():
    store = make_store()
    put(store, text(1, 10))
    assert found(store, [*text(1, 10), 5], 6) == 10
    assert found(store, [*text(1, 10), 5], 7) is None


def test_short_prefixes_and_those_quicker_to_compute_are_not_kept():
    assert put(make_store(), text(1, 4)) == (True, 1)
    assert put(make_store(), [1, 1, 1]) == (False, 0)
    store = make_store(recompute_s=lambda n: 0.0)
    assert put(store, text(1, 8)) == (False, 0)


def test_what_is_quicker_to_compute_by_now_is_not_brought_back():
    seconds = [1e6]
    store = make_store(recompute_s=lambda n: seconds[0] * n)
    put(store, text(1, 8))
    seconds[0] = 0.0
    assert found(store, text(1, 9)) is None


def test_nothing_is_kept_twice_and_a_beginning_gives_way_to_the_whole():
    store = make_store()
    assert put(store, text(1, 8)) == (True, 1)
    assert put(store, text(1, 8)) == (False, 0)
    assert put(store, text(1, 6)) == (False, 0)
    assert put(store, text(1, 12)) == (True, 1)
    assert store.num_host_bytes == 12 * BYTES_PER_TOKEN


def test_beginnings_stay_where_nothing_can_be_cut():
    store = make_store(can_trim=False)
    put(store, text(1, 8))
    put(store, text(1, 12))
    assert store.num_host_bytes == 20 * BYTES_PER_TOKEN


def test_the_least_recently_used_gives_way():
    store = make_store(240)
    for family in (1, 2, 3):
        put(store, text(family, 8))
    store.read(store.find(text(1, 9), 0)[0])
    put(store, text(4, 8))
    assert [found(store, text(family, 9)) for family in (1, 2, 3, 4)] == [8, None, 8, 8]
    assert store.num_host_hits == 1


def test_a_state_known_to_be_too_large_is_not_saved_again():
    store = make_store(100)
    assert put(store, text(1, 20)) == (False, 1)
    assert put(store, text(2, 20)) == (False, 0)
    assert put(store, text(2, 11)) == (False, 0)
    assert put(store, text(2, 10)) == (True, 1)


def test_states_that_do_not_grow_with_every_token_are_only_ruled_out_from_there_on():
    store = make_store(100, can_trim=False)
    assert put(store, text(1, 20), 101) == (False, 1)
    assert put(store, text(2, 20), 101) == (False, 0)
    assert put(store, text(2, 19), 100) == (True, 1)


def files_of(tmp_path, max_bytes=1 << 20):
    return PrefixFiles(tmp_path, max_bytes)


def test_what_memory_has_no_room_for_goes_into_files_and_comes_back(tmp_path):
    store = make_store(100, files_of(tmp_path))
    put(store, text(1, 8))
    put(store, text(2, 8))
    entry, num_common = store.find(text(1, 9), 0)
    assert (entry.state, num_common) == (None, 8)
    assert store.read(entry) == bytes(80)
    assert (store.num_host_hits, store.num_file_hits) == (0, 1)
    store.close(5)
    again = make_store(100, files_of(tmp_path))
    assert again.num_file_bytes == store.num_file_bytes > 80
    assert found(again, text(1, 9)) == 8


def test_idle_writing_gets_to_the_end_and_leaves_out_what_can_never_be_written(tmp_path):
    store = make_store(1000, files_of(tmp_path, 200))
    put(store, text(1, 40))  # 400 bytes
    put(store, text(2, 8))
    assert store.write_one()
    assert not store.write_one()
    store.close(5)
    assert found(make_store(files=files_of(tmp_path)), text(2, 9)) == 8


def test_idle_writing_ends_where_files_push_each_other_out(tmp_path):
    store = make_store(1000, files_of(tmp_path, 150))
    for family in (1, 2, 3):
        put(store, text(family, 8))
    assert [store.write_one() for _ in range(4)] == [True, True, True, False]
    store.check_integrity()
    store.close(5)
    assert len(list(tmp_path.iterdir())) == 1


def test_idle_writing_waits_for_a_slow_disk_and_forgets_nothing(tmp_path):
    files = files_of(tmp_path)
    run, files._run = files._run, lambda: None
    store = make_store(10_000, files)
    for family in range(12):
        put(store, text(family, 8))
    assert all(store.write_one() for _ in range(20))  # 8 wait, and there are more
    files._run, files._thread = run, None
    while store.write_one():
        pass
    store.close(5)
    assert len(list(tmp_path.iterdir())) == 12


def test_a_file_that_is_gone_is_forgotten(tmp_path):
    store = make_store(100, files_of(tmp_path))
    put(store, text(1, 8))
    put(store, text(2, 8))
    store.close(5)
    for path in tmp_path.iterdir():
        path.unlink()
    entry, _ = store.find(text(1, 9), 0)
    assert store.read(entry) is None
    store.check_integrity()
    assert found(store, text(1, 9)) is None


def test_a_folder_that_cannot_be_read_costs_the_files_only(tmp_path, monkeypatch):
    files = files_of(tmp_path)

    def refuse():
        raise PermissionError("not yours")

    monkeypatch.setattr(files, "scan", refuse)
    store = make_store(100, files)
    assert not store.has_files
    assert put(store, text(1, 8)) == (True, 1)
    assert found(store, text(1, 9)) == 8

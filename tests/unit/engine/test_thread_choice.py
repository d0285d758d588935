"""How many threads share a step, on a machine that is made up."""

from __future__ import annotations

import random

import pytest

from slipstream.engine.thread_choice import MAX_ROWS, ThreadChoice


class Machine:
    """Cores, busy loops beside the steps, and steps that wait for their slowest thread.

    A thread whose core is shared with a loop gets half of it, and all threads wait for it.
    """

    def __init__(self, cores: int, *, bound: float = 1.0, seed: int = 0) -> None:
        self.cores, self.loops, self.bound = cores, 0, bound
        self.now_s = self.used_s = 0.0
        self._random = random.Random(seed)

    def time_of(self, threads: int, rows: int) -> float:
        """Seconds of a step; `bound` is the share of it that more threads make quicker."""
        alone = 0.02 * (1 + 0.1 * (rows - 1)) * (1 - self.bound + self.bound / threads)
        return alone * (2.2 if threads + self.loops > self.cores else 1.0)

    def run(self, choice: ThreadChoice, seconds: float, rows: int = 1) -> list[int]:
        threads, end_s = [], self.now_s + seconds
        while self.now_s < end_s:
            n = choice.begin_step(rows)
            taken_s = self.time_of(n, rows) * self._random.uniform(0.97, 1.03)
            cores = min(n, max(1, n - (n + self.loops - self.cores) / 2))
            self.now_s += taken_s
            self.used_s += taken_s * min(n, cores)
            choice.end_step()
            threads.append(n)
        return threads

    def choice(self, most: int) -> ThreadChoice:
        return ThreadChoice(most, wall_s=lambda: self.now_s, cpu_s=lambda: self.used_s)


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_nothing_is_tried_on_a_machine_of_our_own(cores: int) -> None:
    machine = Machine(cores)
    choice = machine.choice(cores)
    assert set(machine.run(choice, 20)) == {cores}
    assert choice.num_trials == 0


@pytest.mark.parametrize("cores", [2, 4, 16])
def test_a_neighbour_takes_a_thread_and_gives_it_back(cores: int) -> None:
    machine = Machine(cores)
    choice = machine.choice(cores)
    machine.run(choice, 2)
    machine.loops = 1
    machine.run(choice, 2)
    beside = machine.run(choice, 10)
    assert beside.count(cores - 1) > 0.9 * len(beside)
    machine.loops = 0
    machine.run(choice, 20)
    assert set(machine.run(choice, 10)) == {cores}


def test_fewer_threads_that_are_no_quicker_are_given_up_soon_and_seldom_tried() -> None:
    machine = Machine(2, bound=1.0)
    machine.loops = 1
    machine.time_of = lambda threads, rows: 0.05 / threads  # type: ignore[method-assign]
    choice = machine.choice(2)
    threads = machine.run(choice, 120)
    assert choice.num_trials > 0
    assert threads.count(1) < 0.02 * len(threads)


def test_several_neighbours_take_several_threads() -> None:
    machine = Machine(8)
    machine.loops = 4
    choice = machine.choice(8)
    machine.run(choice, 10)
    assert set(machine.run(choice, 2)) <= {4, 5}


def test_steps_of_many_tokens_have_all_threads() -> None:
    machine = Machine(2)
    machine.loops = 1
    choice = machine.choice(2)
    machine.run(choice, 5)
    assert set(machine.run(choice, 2, rows=MAX_ROWS + 1)) == {2}
    assert 1 in machine.run(choice, 2)


def test_a_step_that_failed_is_not_noted() -> None:
    machine = Machine(2)
    machine.loops = 1
    choice = machine.choice(2)
    for _ in range(100):
        assert choice.begin_step(1) == 2
        machine.now_s += 1.0
    assert choice.num_trials == 0


def test_steps_of_several_sizes_are_compared() -> None:
    machine = Machine(2)
    machine.loops = 1
    choice = machine.choice(2)
    sizes = random.Random(1)
    threads: list[int] = []
    for _ in range(300):
        threads += machine.run(choice, 1e-9, rows=sizes.randint(1, 8))
    assert threads[-100:].count(1) > 80

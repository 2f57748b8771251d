"""The queue of trials: how many, in which order, for whom, and after a death."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from hydrasweep.errors import UserError
from hydrasweep.search.queue import DROPPED, MAX_RETRIES, OWNER, RETRIES, Queue

SPACE = {"x": FloatDistribution(0.0, 1.0)}
SAMPLER = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler", "seed": 1})
fork = multiprocessing.get_context("fork")

Open = Callable[..., Queue]


def journal(path: Path) -> DictConfig:
    """``storage=journal``."""
    backend = {"_target_": "optuna.storages.journal.JournalFileBackend", "file_path": str(path)}
    return OmegaConf.create({"_target_": "optuna.storages.JournalStorage", "log_storage": backend})


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | DictConfig:
    if request.param == "journal":
        return journal(tmp_path / "study.journal")
    return f"sqlite:///{tmp_path}/study.db?timeout=60"


@pytest.fixture
def open_queue(storage: str | DictConfig) -> Open:
    """``open_queue(*strata)`` opens the same studies as often as it is called."""

    def opened(*strata: str, **kwargs: Any) -> Queue:
        return Queue.open("s", storage, strata or [""], ["maximize"], SAMPLER, None, **kwargs)

    return opened


def n_to_do(queue: Queue) -> list[int]:
    return [stratum.n_to_do(stratum.trials()) for stratum in queue.strata]


def finish(queue: Queue) -> FrozenTrial:
    """Take the next trial and complete it."""
    taken = queue.take(SPACE)
    assert taken is not None
    stratum, trial = taken
    return stratum.study.tell(trial, trial.params["x"])


def in_process(function: Callable[[], object]) -> None:
    """Run it in a process that is killed at its end."""

    def body() -> None:
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    process = fork.Process(target=body)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("n_trials", "shares"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2]), (2, [1, 1, 0])]
)
def test_fill_divides_equally(open_queue: Open, n_trials: int, shares: list[int]) -> None:
    queue = open_queue("a", "b", "c")
    queue.fill(n_trials)
    assert n_to_do(queue) == shares


def test_larger_total_adds_what_is_missing_and_a_smaller_drops_what_waits(open_queue: Open) -> None:
    queue = open_queue("a", "b")
    queue.fill(4)
    done = finish(queue)
    queue.fill(4)
    assert n_to_do(queue) == [1, 2]
    queue.fill(7)
    assert n_to_do(queue) == [3, 3]
    queue.fill(2)
    assert n_to_do(queue) == [0, 1]
    assert [trial.state for trial in queue.strata[0].trials()] == [done.state]
    queue.fill(0)
    assert n_to_do(queue) == [0, 0]
    assert queue.n_finished() == 1
    queue.fill(4)
    assert n_to_do(queue) == [1, 2]


def test_take_serves_the_stratum_that_has_begun_the_fewest(open_queue: Open) -> None:
    queue = open_queue("a", "b", "c")
    queue.fill(8)
    begun = []
    while taken := queue.take(SPACE):
        begun.append(taken[0].value)
    assert begun == ["a", "b", "c"] * 2 + ["a", "b"]


def test_take_gives_none_when_none_is_left_and_begins_none(open_queue: Open) -> None:
    queue = open_queue()
    assert queue.take(SPACE) is None
    queue.fill(1)
    finish(queue)
    assert queue.take(SPACE) is None
    assert len(queue.trials()) == 1


def test_suggestions_are_tried_first(open_queue: Open) -> None:
    queue = open_queue()
    queue.fill(2)
    queue.suggest([{"x": 0.25}, {"x": 0.75}], None)
    queue.fill(3)
    assert [finish(queue).params["x"] for _ in range(2)] == [0.25, 0.75]
    assert n_to_do(queue) == [1]


def test_suggestions_are_queued_once(open_queue: Open) -> None:
    queue = open_queue()
    queue.suggest([{"x": 0.25}], None)
    finish(queue)
    queue.suggest([{"x": 0.25}, {"x": 0.5}], None)
    queue.suggest([{"x": 0.5}], None)
    assert n_to_do(queue) == [1]
    assert finish(queue).params["x"] == 0.5


def test_fewer_trials_drop_suggestions_last(open_queue: Open) -> None:
    queue = open_queue()
    queue.fill(3)
    queue.suggest([{"x": 0.5}], None)
    queue.fill(1)
    assert finish(queue).params["x"] == 0.5


def test_suggestion_goes_to_the_stratum_that_it_names_or_to_all(open_queue: Open) -> None:
    queue = open_queue("a", "b")
    queue.suggest([{"m": "b", "x": 0.25}, {"x": 0.5}], "m")
    assert n_to_do(queue) == [1, 2]
    taken = []
    while found := queue.take(SPACE):
        taken.append((found[0].value, found[1].params["x"]))
    assert taken == [("a", 0.5), ("b", 0.25), ("b", 0.5)]


def test_four_processes_take_each_trial_once(open_queue: Open, tmp_path: Path) -> None:
    n_trials, n_workers = 40, 4
    open_queue("a", "b", "c").fill(n_trials)
    start = fork.Barrier(n_workers)

    def work(i: int) -> None:
        queue = open_queue("a", "b", "c", seed_offset=i)
        start.wait()
        with (tmp_path / f"taken.{i}").open("w") as file:
            while taken := queue.take(SPACE):
                stratum, trial = taken
                trial.report(0.5, 1)
                stratum.study.tell(trial, trial.params["x"])
                file.write(f"{stratum.label(trial.number)}\n")

    workers = [fork.Process(target=work, args=(i,)) for i in range(n_workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * n_workers
    queue = open_queue("a", "b", "c")
    taken = [line for path in tmp_path.glob("taken.*") for line in path.read_text().split()]
    labels = [stratum.label(trial.number) for stratum, trial in queue.trials()]
    assert len(taken) == n_trials
    assert sorted(taken) == sorted(labels)
    assert len(set(labels)) == n_trials
    assert {trial.state for _, trial in queue.trials()} == {TrialState.COMPLETE}


def test_trial_of_a_dead_process_is_dropped_and_its_parameters_tried_first(
    open_queue: Open,
) -> None:
    queue = open_queue("a", "b")
    queue.fill(4)
    in_process(lambda: open_queue("a", "b").take(SPACE))
    assert queue.settle() == ["a-000"]
    (lost,) = (t for t in queue.strata[0].study.trials if DROPPED in t.user_attrs)
    assert (lost.number, lost.state) == (0, TrialState.FAIL)
    assert n_to_do(queue) == [2, 2]
    again = finish(queue)
    assert again.number == 1
    assert again.params == lost.params
    assert queue.settle() == []


def test_trial_that_died_before_its_parameters_were_drawn_is_queued_again(
    open_queue: Open,
) -> None:
    queue = open_queue()
    queue.fill(1)
    in_process(lambda: open_queue().take({}))
    assert queue.settle() == ["000"]
    assert finish(queue).params.keys() == {"x"}
    assert queue.take(SPACE) is None


def test_trial_of_a_living_process_is_left_alone(open_queue: Open) -> None:
    queue = open_queue()
    queue.fill(1)
    taken, end = fork.Event(), fork.Event()

    def work() -> None:
        open_queue().take(SPACE)
        taken.set()
        end.wait()

    worker = fork.Process(target=work)
    worker.start()
    with contextlib.closing(worker):
        taken.wait()
        assert queue.settle() == []
        ((_, trial),) = queue.trials()
        assert trial.state == TrialState.RUNNING
        assert trial.user_attrs[OWNER]["pid"] == str(worker.pid)
        end.set()
        worker.join()
    assert queue.settle() == ["000"]


def test_trial_that_kills_its_process_each_time_fails_and_counts(open_queue: Open) -> None:
    queue = open_queue()
    queue.fill(1)
    for _ in range(MAX_RETRIES):
        in_process(lambda: open_queue().take(SPACE))
        queue.settle()
        assert (queue.n_finished(), n_to_do(queue)) == (0, [1])
    in_process(lambda: open_queue().take(SPACE))
    queue.settle()
    assert (queue.n_finished(), n_to_do(queue)) == (1, [0])
    ((_, trial),) = queue.trials()
    assert trial.state == TrialState.FAIL
    assert len({tuple(trial.params.items()) for trial in queue.strata[0].study.trials}) == 1


def test_trials_lost_again_and_again_run_one_at_a_time_and_the_most_suspect_last(
    open_queue: Open,
) -> None:
    queue = open_queue()
    queue.fill(4)

    def take(n: int = 1) -> list[Trial]:
        return [taken[1] for taken in (open_queue().take(SPACE) for _ in range(n)) if taken]

    for _ in range(2):  # which of the two is to blame?
        in_process(lambda: take(2))
        assert len(queue.settle()) == 2
    suspect, fresh = take(2)
    assert suspect.user_attrs[RETRIES] == 2
    assert RETRIES not in fresh.user_attrs
    in_process(take)
    assert len(queue.settle()) == 1
    assert [trial.user_attrs[RETRIES] for trial in take(2)] == [1]
    queue.strata[0].study.tell(suspect.number, 0.0)
    assert [trial.user_attrs[RETRIES] for trial in take(2)] == [2]


def test_trial_that_was_interrupted_is_tried_again_for_ever(open_queue: Open) -> None:
    queue = open_queue()
    queue.fill(1)
    for _ in range(MAX_RETRIES + 2):
        taken = queue.take(SPACE)
        assert taken is not None
        queue.give_up(taken[0], taken[1].number, "it was interrupted", blame=False)
    assert (queue.n_finished(), n_to_do(queue)) == (0, [1])


def test_trial_that_has_ended_is_not_given_up(open_queue: Open) -> None:
    queue = open_queue()
    queue.fill(1)
    done = finish(queue)
    queue.give_up(queue.strata[0], done.number, "too late", blame=True)
    assert (queue.n_finished(), n_to_do(queue)) == (1, [0])
    assert queue.trials()[0][1].state == TrialState.COMPLETE


def test_another_space_is_refused_with_the_difference(open_queue: Open) -> None:
    open_queue().agree({"lr": "0..1", "n": "3"})
    open_queue().agree({"n": "3", "lr": "0..1"})
    with pytest.raises(UserError) as error:
        open_queue().agree({"lr": "0..2", "m": "1", "n": "3"})
    shown = str(error.value)
    assert "lr: was 0..1, now 0..2" in shown
    assert "m: was None, now 1" in shown
    assert "n:" not in shown


def test_stop_lets_no_further_trial_begin(open_queue: Open) -> None:
    queue = open_queue()
    queue.fill(2)
    open_queue().stop("because")
    assert queue.take(SPACE) is None
    assert queue.is_idle()
    queue.stop("")
    assert not queue.is_idle()
    assert finish(queue).number == 0


def test_seed_offset_changes_what_is_proposed(tmp_path: Path) -> None:
    proposed = {}
    for name, offset in (("first", 0), ("again", 0), ("other", 1)):
        storage = f"sqlite:///{tmp_path}/{name}.db"
        queue = Queue.open("s", storage, [""], ["maximize"], SAMPLER, None, offset)
        queue.fill(2)
        proposed[name] = [finish(queue).params["x"] for _ in range(2)]
    assert proposed["first"] == proposed["again"]
    assert proposed["first"] != proposed["other"]

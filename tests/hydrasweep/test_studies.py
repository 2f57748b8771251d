"""What is to be tried: how many, in which order, for whom, and after a death."""

import contextlib
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from hydrasweep.agreement import agree
from hydrasweep.errors import UserError
from hydrasweep.given import Given
from hydrasweep.liveness import OWNER
from hydrasweep.storage import close_storages, prepare
from hydrasweep.stratum import RETRIES, RETRY_OF
from hydrasweep.studies import MAX_RETRIES, Studies
from hydrasweep.trials import CONFIRM

SPACE = {"x": FloatDistribution(0.0, 1.0)}
SAMPLER = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler", "seed": 1})
fork = multiprocessing.get_context("fork")

Open = Callable[..., Studies]


def sqlite(path: Path) -> DictConfig:
    """As ``hydra/sweeper/storage=sqlite``."""
    url = f"sqlite:///{path}?timeout=60"
    return OmegaConf.create({"_target_": "hydrasweep.storage.database", "url": url})


def journal(path: Path) -> DictConfig:
    """As ``hydra/sweeper/storage=journal``."""
    backend = {"_target_": "optuna.storages.journal.JournalFileBackend", "file_path": str(path)}
    return OmegaConf.create({"_target_": "optuna.storages.JournalStorage", "log_storage": backend})


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without studies; made once, because that takes most of a test's time."""
    path = tmp_path_factory.mktemp("empty") / "study"
    prepare(sqlite(path))
    close_storages()
    return path


@pytest.fixture(params=[sqlite, journal])
def open_studies(request: pytest.FixtureRequest, tmp_path: Path, database: Path) -> Iterator[Open]:
    """``open_studies(*strata)`` opens the same studies as often as it is called."""
    storage = request.param(tmp_path / "study")
    kept = []
    if request.param == sqlite:
        shutil.copy(database, tmp_path)

    def opened(*strata: str, **kwargs: Any) -> Studies:
        studies = Studies.open("s", storage, strata or [""], ["maximize"], SAMPLER, None, **kwargs)
        kept.append(studies.head._storage)
        return studies

    yield opened
    close_storages()
    for each in kept:  # those that were closed before another process began, and used again
        backend = getattr(each, "_backend", each)
        if isinstance(backend, RDBStorage):
            backend.remove_session()
            backend.engine.dispose()


def given(*xs: float, stratum: str = "") -> dict[str, list[Given]]:
    return {stratum: [Given({"x": x}) for x in xs]}


def n_to_do(studies: Studies) -> list[int]:
    return [stratum.n_to_do(stratum.trials()) for stratum in studies.strata]


def finish(studies: Studies) -> FrozenTrial:
    """Take the next trial and complete it."""
    taken = studies.take(SPACE)
    assert taken is not None
    stratum, trial = taken
    return stratum.study.tell(trial, trial.params["x"])


def in_process(function: Callable[[], object]) -> None:
    """Run it in a process that is killed at its end."""

    def body() -> None:
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    close_storages()  # no connection goes into another process
    process = fork.Process(target=body)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


# How many


@pytest.mark.parametrize(
    ("n_trials", "shares"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2]), (2, [1, 1, 0])]
)
def test_fill_divides_equally(open_studies: Open, n_trials: int, shares: list[int]) -> None:
    studies = open_studies("a", "b", "c")
    studies.fill(n_trials)
    assert n_to_do(studies) == shares


def test_total_may_grow_and_shrink(open_studies: Open) -> None:
    studies = open_studies("a", "b")
    studies.fill(4)
    done = finish(studies)
    studies.fill(4)
    assert n_to_do(studies) == [1, 2]
    studies.fill(7)
    assert n_to_do(studies) == [3, 3]
    studies.fill(2)
    assert n_to_do(studies) == [0, 1]
    assert [trial.state for trial in studies.strata[0].trials()] == [done.state]
    studies.fill(0)
    assert n_to_do(studies) == [0, 0]
    assert studies.is_done()
    assert studies.n_finished() == 1
    studies.fill(4)
    assert n_to_do(studies) == [1, 2]


def test_take_serves_the_stratum_that_has_begun_the_fewest(open_studies: Open) -> None:
    studies = open_studies("a", "b", "c")
    studies.fill(8)
    begun = []
    while taken := studies.take(SPACE):
        begun.append(taken[0].value)
    assert begun == ["a", "b", "c"] * 2 + ["a", "b"]


def test_take_gives_none_when_none_is_left_and_begins_none(open_studies: Open) -> None:
    studies = open_studies()
    assert studies.take(SPACE) is None
    studies.fill(1)
    finish(studies)
    assert studies.take(SPACE) is None
    assert len(studies.trials()) == 1


def test_stop_lets_no_further_trial_begin(open_studies: Open) -> None:
    studies = open_studies()
    studies.fill(2)
    open_studies().stop("because")
    assert studies.take(SPACE) is None
    assert studies.is_idle()
    studies.stop("")
    assert not studies.is_idle()
    assert finish(studies).number == 0


def test_start_that_leaves_stops_its_own_workers_only(open_studies: Open) -> None:
    first, second = open_studies(), open_studies()
    first.join()
    second.join()
    first.fill(2)
    first.leave()
    assert first.take(SPACE) is None
    assert finish(second).number == 0


# In which order


def test_given_settings_are_tried_first(open_studies: Open) -> None:
    studies = open_studies()
    studies.give(given(0.25, 0.75))
    studies.fill(3)
    assert n_to_do(studies) == [3]  # they are among these
    assert [finish(studies).params["x"] for _ in range(2)] == [0.25, 0.75]
    assert finish(studies).params["x"] not in (0.25, 0.75)
    assert studies.take(SPACE) is None


def test_given_settings_are_tried_once_however_often_they_are_given(open_studies: Open) -> None:
    studies = open_studies()
    studies.give(given(0.25, 0.25))
    studies.fill(4)
    first = finish(studies)
    again = open_studies()  # as another worker, or the next start
    again.give(given(0.25, 0.5))
    xs = [finish(again).params["x"] for _ in range(3)]
    assert first.params["x"] == 0.25
    assert xs[0] == 0.5
    assert 0.25 not in xs


def test_given_settings_that_name_some_parameters_have_the_others_suggested(
    open_studies: Open,
) -> None:
    studies = open_studies()
    studies.give(given(0.25))
    studies.fill(2)
    space = SPACE | {"y": FloatDistribution(0.0, 1.0)}
    first, second = studies.take(space), studies.take(space)
    assert first is not None
    assert second is not None
    assert first[1].params.keys() == {"x", "y"}
    assert first[1].params["x"] == 0.25
    assert second[1].params["x"] != 0.25


def test_given_settings_are_a_strata_own(open_studies: Open) -> None:
    studies = open_studies("a", "b")
    studies.give(given(0.25, stratum="b"))
    studies.fill(2)
    values = {t[0].value: t[1].params["x"] for t in [studies.take(SPACE), studies.take(SPACE)] if t}
    assert values["b"] == 0.25
    assert values["a"] != 0.25


def test_settings_may_be_given_whole_with_parameters_that_the_space_has_not(
    open_studies: Open,
) -> None:
    studies = open_studies()
    space = {"x": FloatDistribution(0.0, 1.0), "c": CategoricalDistribution(["[1]", "null", 2])}
    points = [{"x": 0.5, "c": "[1]"}, {"x": 0.5, "c": "null"}, {"x": 0.5, "c": 2}]
    studies.give({"": [Given(point, space) for point in points]})
    studies.fill(3)
    taken = [studies.take({}) for _ in points]
    assert [trial[1].params for trial in taken if trial] == points


def test_phase_after_the_search_has_what_is_given_and_nothing_else(open_studies: Open) -> None:
    studies = open_studies("a", "b", phase=CONFIRM)
    assert studies.is_done()
    studies.give({"a": [Given({"x": x}, SPACE) for x in (0.25, 0.5)]})
    assert n_to_do(studies) == [2, 0]
    assert [finish(studies).params["x"] for _ in range(2)] == [0.25, 0.5]
    assert studies.take({}) is None
    studies.give({"a": [Given({"x": x}, SPACE) for x in (0.75, 0.25)]})  # by a longer search
    assert n_to_do(studies) == [1, 0]
    assert finish(studies).params["x"] == 0.75
    assert studies.is_done()


def test_seed_offset_changes_what_is_proposed(tmp_path: Path, database: Path) -> None:
    proposed = {}
    for name, offset in (("first", 0), ("again", 0), ("other", 1)):
        storage = sqlite(Path(shutil.copy(database, tmp_path / name)))
        studies = Studies.open("s", storage, [""], ["maximize"], SAMPLER, None, offset)
        studies.fill(2)
        proposed[name] = [finish(studies).params["x"] for _ in range(2)]
    close_storages()
    assert proposed["first"] == proposed["again"]
    assert proposed["first"] != proposed["other"]


# For whom


def test_four_processes_take_each_trial_once(open_studies: Open, tmp_path: Path) -> None:
    n_trials, n_workers = 24, 4
    open_studies("a", "b", "c").fill(n_trials)
    close_storages()
    start = fork.Barrier(n_workers)

    def work(i: int) -> None:
        studies = open_studies("a", "b", "c", seed_offset=i)
        studies.give({value: [Given({"x": 0.25}), Given({"x": 0.5})] for value in "abc"})
        start.wait()
        with (tmp_path / f"taken.{i}").open("w") as file:
            while taken := studies.take(SPACE):
                stratum, trial = taken
                trial.report(0.5, 1)
                stratum.study.tell(trial, trial.params["x"])
                file.write(f"{stratum.label(trial)}\n")

    workers = [fork.Process(target=work, args=(i,)) for i in range(n_workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * n_workers
    studies = open_studies("a", "b", "c")
    taken = [line for path in tmp_path.glob("taken.*") for line in path.read_text().split()]
    labels = [stratum.label(trial) for stratum, trial in studies.trials()]
    assert len(taken) == n_trials
    assert sorted(taken) == sorted(labels)
    assert len(set(labels)) == n_trials
    assert {trial.state for _, trial in studies.trials()} == {TrialState.COMPLETE}
    for stratum in studies.strata:
        xs = [trial.params["x"] for trial in stratum.trials()]
        assert (xs.count(0.25), xs.count(0.5)) == (1, 1)


# After a death


def test_trial_of_a_dead_process_is_lost_and_its_settings_are_tried_next(
    open_studies: Open,
) -> None:
    studies = open_studies("a", "b")
    studies.fill(4)
    in_process(lambda: open_studies("a", "b").take(SPACE))
    assert studies.settle() == ["a-000"]
    assert studies.ended_badly() == {"a-000": "FAIL"}
    lost = studies.strata[0].study.trials[0]
    assert lost.state == TrialState.FAIL
    assert n_to_do(studies) == [2, 2]
    assert studies.n_finished() == 0
    again = finish(studies)
    assert again.number == 1
    assert again.params == lost.params
    assert again.user_attrs[RETRY_OF] == lost.number
    assert studies.settle() == []


def test_trial_that_died_before_its_parameters_were_drawn_is_tried_again(
    open_studies: Open,
) -> None:
    studies = open_studies()
    studies.fill(1)
    in_process(lambda: open_studies().take({}))
    assert studies.settle() == ["000"]
    assert finish(studies).params.keys() == {"x"}
    assert studies.take(SPACE) is None


def test_trial_of_a_living_process_is_left_alone(open_studies: Open) -> None:
    studies = open_studies()
    studies.fill(1)
    taken, end = fork.Event(), fork.Event()

    def work() -> None:
        open_studies().take(SPACE)
        taken.set()
        end.wait()

    close_storages()
    worker = fork.Process(target=work)
    worker.start()
    with contextlib.closing(worker):
        taken.wait()
        assert studies.settle() == []
        ((_, trial),) = studies.trials()
        assert trial.state == TrialState.RUNNING
        assert trial.user_attrs[OWNER]["pid"] == str(worker.pid)
        end.set()
        worker.join()
    assert studies.settle() == ["000"]


def test_trial_that_kills_its_process_each_time_fails_and_counts(open_studies: Open) -> None:
    studies = open_studies()
    studies.fill(1)
    for _ in range(MAX_RETRIES):
        in_process(lambda: open_studies().take(SPACE))
        studies.settle()
        assert (studies.n_finished(), n_to_do(studies)) == (0, [1])
    in_process(lambda: open_studies().take(SPACE))
    studies.settle()
    assert (studies.n_finished(), n_to_do(studies)) == (1, [0])
    ((_, trial),) = studies.trials()
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs[RETRIES] == MAX_RETRIES
    ended = {f"{n:03d}": "FAIL" for n in range(MAX_RETRIES + 1)}  # this one for good
    assert studies.ended_badly() == ended
    assert len({tuple(trial.params.items()) for trial in studies.strata[0].study.trials}) == 1


def test_two_who_find_a_dead_process_queue_its_trial_once(open_studies: Open) -> None:
    studies = open_studies()
    studies.fill(1)
    in_process(lambda: open_studies().take(SPACE))
    stratum = studies.strata[0]
    add = stratum.study.add_trial

    def meanwhile(trial: FrozenTrial) -> None:  # the first dies between its two steps
        add(trial)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stratum.study, "add_trial", meanwhile)
        with pytest.raises(KeyboardInterrupt):
            studies.settle()
    assert open_studies().settle() == ["000"]
    assert n_to_do(studies) == [1]
    assert [trial.state.name for trial in stratum.study.trials] == ["FAIL", "WAITING"]


def test_trial_that_was_interrupted_is_tried_again_for_ever(open_studies: Open) -> None:
    studies = open_studies()
    studies.fill(1)
    for _ in range(MAX_RETRIES + 2):
        taken = studies.take(SPACE)
        assert taken is not None
        studies.requeue(taken[0], taken[1].number, "it was interrupted", counts=False)
    assert (studies.n_finished(), n_to_do(studies)) == (0, [1])


def test_trial_that_has_ended_is_not_requeued(open_studies: Open) -> None:
    studies = open_studies()
    studies.fill(1)
    done = finish(studies)
    studies.requeue(studies.strata[0], done.number, "too late")
    assert (studies.n_finished(), n_to_do(studies)) == (1, [0])
    assert studies.trials()[0][1].state == TrialState.COMPLETE


def test_trial_that_this_process_could_not_end_is_tried_again(open_studies: Open) -> None:
    studies = open_studies()
    studies.fill(1)
    studies.take(SPACE)
    assert studies.settle() == []  # its process lives
    studies.requeue_own()
    assert n_to_do(studies) == [1]
    assert finish(studies).user_attrs[RETRIES] == 0  # it was nobody's fault


# What is refused


def test_another_space_is_refused_with_the_difference(open_studies: Open) -> None:
    config = {"": {"epochs": "3"}}
    agree(open_studies(), {"lr": "0..1", "n": "3"}, config)
    agree(open_studies(), {"n": "3", "lr": "0..1"}, config)
    with pytest.raises(UserError, match=r"epochs: was 3, now 5(.|\n)*may_change=\[epochs\]"):
        agree(open_studies(), {"lr": "0..1", "n": "3"}, {"": {"epochs": "5"}})
    with pytest.raises(UserError) as error:
        agree(open_studies(), {"lr": "0..2", "m": "1", "n": "3"}, config)
    shown = str(error.value)
    assert "study s exists with other settings" in shown
    assert "lr: was 0..1, now 0..2" in shown
    assert "m: was not there, now 1" in shown
    assert "n:" not in shown
    assert "may_change" not in shown  # what is searched may not


def test_start_with_some_of_the_strata_is_refused(open_studies: Open) -> None:
    """Its settings are compared with no other stratum's, whose trials it would not have."""
    strata = {value: {"model": value, "epochs": "3"} for value in "ab"}
    agree(open_studies("a", "b"), {"model": "a, b"}, strata)
    with pytest.raises(UserError, match=r"model: was a, b, now b"):
        agree(open_studies("b"), {"model": "b"}, {"b": strata["b"] | {"epochs": "5"}})
    with pytest.raises(UserError, match=r"model: was a, b, now b, c"):
        agree(open_studies("b", "c"), {"model": "b, c"}, strata | {"c": {"epochs": "5"}})

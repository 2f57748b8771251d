"""The studies of a sweep: how many trials begin, in which order, and what happens to lost ones."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable

import pytest
from opened import SPACE, HeldLock, begin, finish, journal, open_studies, sqlite
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hydrasweep.agreement import agree
from hydrasweep.errors import UserError
from hydrasweep.given import Given
from hydrasweep.liveness import OWNER
from hydrasweep.storage import close_storages, prepare
from hydrasweep.stratum import RETRIES, RETRY_OF
from hydrasweep.studies import MAX_RETRIES, Studies
from hydrasweep.trials import CONFIRM

fork = multiprocessing.get_context("fork")
each_storage = pytest.mark.parametrize("again", [sqlite, journal], indirect=True)

Again = Callable[..., Studies]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database without studies. Creating one takes most of a test's time."""
    path = tmp_path_factory.mktemp("empty") / "study"
    prepare(sqlite(path))
    close_storages()
    return path


@pytest.fixture
def again(request, tmp_path):
    """``again("a", "b")`` opens the same studies each time, as another worker does. They are in a
    journal, or in the storage that the test is parametrized with."""
    storage = getattr(request, "param", journal)
    kept = []
    if storage is sqlite:
        shutil.copy(request.getfixturevalue("database"), tmp_path)

    def opened(*strata, **kwargs):
        studies = open_studies(storage(tmp_path / "study"), *strata, **kwargs)
        kept.append(studies.head._storage)
        return studies

    yield opened
    close_storages()
    for each in kept:  # a storage that was closed before a fork may have been used again
        backend = getattr(each, "_backend", each)
        if isinstance(backend, RDBStorage):
            backend.remove_session()
            backend.engine.dispose()


def given(*xs, stratum="", **kwargs):
    return {stratum: [Given({"x": x}, **kwargs) for x in xs]}


def n_to_do(studies):
    return [stratum.n_to_do(stratum.trials()) for stratum in studies.strata]


def in_process(function):
    """Call a function in a process that is killed afterwards."""

    def body():
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    close_storages()  # two processes must not share a connection
    process = fork.Process(target=body)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


# How many trials begin


@pytest.mark.parametrize(
    ("n_trials", "shares"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (8, [3, 3, 2]), (2, [1, 1, 0])]
)
def test_trials_are_divided_equally_among_strata(again, n_trials, shares):
    studies = again("a", "b", "c")
    studies.fill(n_trials)
    assert n_to_do(studies) == shares


def test_number_of_trials_may_grow_and_shrink(again):
    studies = again("a", "b")
    studies.fill(4)
    finish(studies)
    for n_trials, left in ((4, [1, 2]), (7, [3, 3]), (2, [0, 1]), (0, [0, 0]), (4, [1, 2])):
        studies.fill(n_trials)
        assert n_to_do(studies) == left
        assert studies.is_done() == (n_trials == 0)
        assert studies.n_finished() == 1


def test_stratum_with_the_fewest_trials_is_next(again):
    studies = again("a", "b", "c")
    studies.fill(8)
    begun = []
    while each := studies.take(SPACE):
        begun.append(each[0].value)
    assert begun == ["a", "b", "c"] * 2 + ["a", "b"]
    assert len(studies.trials()) == 8


def test_no_trial_begins_after_a_stop(again):
    studies = again()
    studies.fill(2)
    again().stop("because")
    assert studies.take(SPACE) is None
    assert studies.is_idle()
    studies.stop("")
    assert not studies.is_idle()
    assert finish(studies).number == 0


def test_start_that_leaves_stops_its_own_workers_only(again):
    first, second = again(), again()
    first.lock = HeldLock(second.join)  # the other is counted while this one waits
    first.join()
    assert (second.start, first.start) == (0, 1)
    first.fill(2)
    first.leave()
    assert first.take(SPACE) is None
    assert finish(second).number == 0


@each_storage
def test_processes_begin_each_trial_once(again, tmp_path):
    n_trials, n_workers = 12, 3
    again("a", "b", "c").fill(n_trials)
    close_storages()
    start = fork.Barrier(n_workers)

    def slowly(function):
        def slow(*args):
            time.sleep(0.01)
            return function(*args)

        return slow

    def work(i):
        studies = again("a", "b", "c", seed_offset=i)
        studies.give({value: [Given({"x": 0.25}), Given({"x": 0.5})] for value in "abc"})
        for stratum in studies.strata:  # leave the others time between counting and beginning
            stratum.study.ask = slowly(stratum.study.ask)
        start.wait()
        with (tmp_path / f"begun.{i}").open("w") as file:
            while begun := studies.take(SPACE):
                stratum, trial = begun
                trial.report(0.5, 1)
                stratum.study.tell(trial, trial.params["x"])
                file.write(f"{stratum.label(trial)}\n")

    workers = [fork.Process(target=work, args=(i,)) for i in range(n_workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * n_workers
    studies = again("a", "b", "c")
    begun = [line for path in tmp_path.glob("begun.*") for line in path.read_text().split()]
    labels = [stratum.label(trial) for stratum, trial in studies.trials()]
    assert sorted(begun) == sorted(labels)
    assert len(set(labels)) == len(labels) == n_trials
    assert {trial.state for _, trial in studies.trials()} == {TrialState.COMPLETE}
    for stratum in studies.strata:
        xs = [trial.params["x"] for trial in stratum.trials()]
        assert (xs.count(0.25), xs.count(0.5)) == (1, 1)


# In which order


def test_queued_settings_are_tried_first_and_once(again):
    studies = again()
    studies.give(given(0.25, 0.25))
    studies.fill(4)
    assert n_to_do(studies) == [4]  # the queued ones count
    xs = [finish(studies).params["x"]]
    other = again()  # another worker or the next start
    other.give(given(0.25, 0.5))
    xs += [finish(other).params["x"] for _ in range(3)]
    assert xs[:2] == [0.25, 0.5]
    assert not {0.25, 0.5} & set(xs[2:])
    assert other.take(SPACE) is None


def test_sampler_suggests_parameters_that_queued_settings_leave_out(again):
    studies = again()
    studies.give(given(0.25))
    studies.fill(2)
    space = SPACE | {"y": FloatDistribution(0.0, 1.0)}
    (_, first), (_, second) = begin(studies, space), begin(studies, space)
    assert first.params.keys() == {"x", "y"}
    assert first.params["x"] == 0.25
    assert second.params["x"] != 0.25


def test_queued_settings_may_have_a_space_of_their_own(again):
    studies = again()
    space = SPACE | {"c": CategoricalDistribution(["[1]", "null", 2])}
    points = [{"x": 0.5, "c": "[1]"}, {"x": 0.5, "c": "null"}, {"x": 0.5, "c": 2}]
    studies.give({"": [Given(point, space) for point in points]})
    studies.fill(3)
    assert [begin(studies, {})[1].params for _ in points] == points


def test_phase_after_the_search_has_the_queued_trials_only(again):
    studies = again("a", "b", phase=CONFIRM)
    assert studies.is_done()
    studies.give(given(0.25, 0.5, stratum="a", distributions=SPACE))
    assert n_to_do(studies) == [2, 0]
    assert [finish(studies, {}).params["x"] for _ in range(2)] == [0.25, 0.5]
    assert studies.take({}) is None
    studies.give(given(0.75, 0.25, stratum="a", distributions=SPACE))  # of a longer search
    assert n_to_do(studies) == [1, 0]
    assert finish(studies, {}).params["x"] == 0.75
    assert studies.is_done()


def test_seed_offset_changes_what_is_suggested(tmp_path):
    suggested = {}
    for name, offset in (("first", 0), ("again", 0), ("other", 1)):
        studies = open_studies(journal(tmp_path / name), seed_offset=offset)
        studies.fill(2)
        suggested[name] = [finish(studies).params["x"] for _ in range(2)]
    assert suggested["first"] == suggested["again"] != suggested["other"]


# Lost trials


@each_storage
def test_trial_of_a_dead_process_fails_and_its_settings_are_next(again):
    studies = again("a", "b")
    studies.fill(4)
    in_process(lambda: begin(again("a", "b")))
    assert studies.settle() == ["a-000"]
    assert studies.ended_badly() == {"a-000": "FAIL"}
    lost = studies.strata[0].study.trials[0]
    assert lost.state == TrialState.FAIL
    assert n_to_do(studies) == [2, 2]
    assert studies.n_finished() == 0
    repeated = finish(studies)
    assert (repeated.number, repeated.params) == (1, lost.params)
    assert repeated.user_attrs[RETRY_OF] == lost.number
    assert studies.settle() == []


def test_trial_that_died_before_its_parameters_were_suggested_is_repeated(again):
    studies = again()
    studies.fill(1)
    in_process(lambda: begin(again(), {}))
    assert studies.settle() == ["000"]
    assert finish(studies).params.keys() == {"x"}
    assert studies.take(SPACE) is None


def test_trial_of_a_living_process_goes_on(again):
    studies = again()
    studies.fill(1)
    begun, end = fork.Event(), fork.Event()

    def work():
        begin(again())
        begun.set()
        end.wait()

    close_storages()
    worker = fork.Process(target=work, daemon=True)
    worker.start()
    with contextlib.closing(worker):
        begun.wait()
        assert studies.settle() == []
        studies.requeue_own()
        ((_, trial),) = studies.trials()
        assert trial.state == TrialState.RUNNING
        assert trial.user_attrs[OWNER]["pid"] == str(worker.pid)
        end.set()
        worker.join()
    assert studies.settle() == ["000"]


def test_trial_that_kills_its_process_each_time_fails_and_counts(again):
    studies = again()
    studies.fill(1)
    for n_lost in range(1, MAX_RETRIES + 2):
        in_process(lambda: begin(again()))
        studies.settle()
        is_last = n_lost == MAX_RETRIES + 1
        assert (studies.n_finished(), n_to_do(studies)) == ((1, [0]) if is_last else (0, [1]))
    ((_, trial),) = studies.trials()
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs[RETRIES] == MAX_RETRIES
    assert studies.ended_badly() == {f"{n:03d}": "FAIL" for n in range(MAX_RETRIES + 1)}
    assert len({tuple(trial.params.items()) for trial in studies.strata[0].study.trials}) == 1


def test_interrupted_trial_is_repeated_without_a_limit(again):
    studies = again()
    studies.fill(1)
    for _ in range(MAX_RETRIES + 2):
        stratum, trial = begin(studies)
        studies.requeue(stratum, trial.number, "it was interrupted", counts=False, is_own=True)
    assert (studies.n_finished(), n_to_do(studies)) == (0, [1])


@each_storage
def test_lost_trial_is_queued_once_although_its_finder_dies(again):
    studies = again()
    studies.fill(1)
    in_process(lambda: begin(again()))
    study = studies.strata[0].study
    add = study.add_trial

    def add_and_die(trial):
        add(trial)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "add_trial", add_and_die)
        with pytest.raises(KeyboardInterrupt):
            studies.settle()
    assert again().settle() == ["000"]
    assert n_to_do(studies) == [1]
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


@pytest.mark.parametrize("counts", [True, False])
def test_trial_that_ends_while_the_lock_is_awaited_is_not_repeated(again, counts):
    studies = again()
    studies.fill(1)
    stratum, trial = begin(studies)
    trial.set_user_attr(OWNER, {})  # it looks lost
    studies.lock = HeldLock(lambda: stratum.study.tell(trial, 0.5))
    studies.requeue(stratum, trial.number, "too late", counts)
    assert [each.state for each in stratum.study.trials] == [TrialState.COMPLETE]


def test_trial_whose_process_appears_while_the_lock_is_awaited_goes_on(again):
    """A trial has no owner yet when its worker has just begun it."""
    studies = again()
    studies.fill(1)
    stratum, trial = begin(studies)
    owner = trial.user_attrs[OWNER]
    trial.set_user_attr(OWNER, {})
    studies.lock = HeldLock(lambda: trial.set_user_attr(OWNER, owner))
    studies.settle()
    assert [each.state for each in stratum.study.trials] == [TrialState.RUNNING]


def test_trial_that_this_process_could_not_end_is_repeated(again):
    studies = again()
    studies.fill(1)
    begin(studies)
    assert studies.settle() == []  # its process lives
    studies.requeue_own()
    assert n_to_do(studies) == [1]
    assert finish(studies).user_attrs[RETRIES] == 0  # this loss does not count


# Settings that differ from those of an earlier start


def test_start_with_another_space_or_config_is_refused_with_the_difference(again):
    space, configs = {"kind": "a, b", "lr": "0..1"}, {k: {"epochs": "3"} for k in "ab"}
    agree(again("a", "b"), space, configs)
    agree(again("a", "b"), dict(reversed(space.items())), configs)
    for stratum in "ab":
        changed = configs | {stratum: {"epochs": "5"}}
        with pytest.raises(UserError, match=r"epochs: .*3.*5(.|\n)*may_change=\[epochs\]"):
            agree(again("a", "b"), space, changed)
        agree(again("a", "b"), space, changed, may_change=["epochs"])
        agree(again("a", "b"), space, configs, may_change=["epochs"])
    with pytest.raises(UserError) as error:
        agree(again("a", "b"), {"kind": "a, b", "lr": "0..2", "m": "1"}, configs)
    first, *lines = str(error.value).splitlines()
    assert "study s " in first
    shown = {key: rest for key, _, rest in (line.strip().partition(": ") for line in lines)}
    assert shown.keys() >= {"lr", "m"}
    assert "0..1" in shown["lr"]
    assert "0..2" in shown["lr"]
    assert "kind" not in shown
    assert "may_change" not in str(error.value)  # the space must not change


def test_start_with_some_of_the_strata_is_refused(again):
    """The config of its strata is compared with that of no other one."""
    configs = {value: {"model": value, "epochs": "3"} for value in "abc"}
    agree(again("a", "b"), {"model": "a, b"}, configs)
    for strata in ("b", "bc"):
        now = ", ".join(strata)
        with pytest.raises(UserError, match=f"model: .*a, b.* {now}"):
            agree(again(*strata), {"model": now}, configs)

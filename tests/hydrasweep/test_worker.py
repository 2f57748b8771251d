"""What a worker makes of a trial's name, its return value and of failures."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from hydrasweep.search.queue import WHY, Queue
from hydrasweep.search.space import Space
from hydrasweep.search.worker import Plan, as_values, run_name, too_many_failures

SAMPLER = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler", "seed": 0})


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        name="s",
        space=Space.parse(["model=cnn,lenet5", "x=interval(0,1)"], "model"),
        storage=f"sqlite:///{tmp_path}/study.db",
        directions=["maximize"],
        sampler=SAMPLER,
        pruner=None,
        custom_search_space=None,
        deadline=None,
        max_failures=None,
        max_failure_rate=None,
        trial_overrides=(),
        run_name_key=None,
        n_gpus=0,
        parent={},
    )


Ended = Callable[..., Queue]


@pytest.fixture
def ended(plan: Plan) -> Ended:
    """``ended(1.0, None, "some error")`` gives a queue of a COMPLETE, a PRUNED, a FAIL trial."""

    def made(*ends: Any) -> Queue:
        queue = plan.open()
        queue.fill(len(ends))
        for end in ends:
            taken = queue.take({})
            assert taken is not None
            stratum, trial = taken
            if isinstance(end, str):
                trial.set_user_attr(WHY, end)
                stratum.study.tell(trial, state=TrialState.FAIL)
            elif end is None:
                stratum.study.tell(trial, state=TrialState.PRUNED)
            else:
                stratum.study.tell(trial, end)
        return queue

    return made


@pytest.mark.parametrize(
    ("value", "n", "values"),
    [
        (1, 1, [1.0]),
        (0.5, 1, [0.5]),
        (np.float32(0.5), 1, [0.5]),
        ("2", 1, [2.0]),
        ([0.5], 1, [0.5]),
        ((1, 2.5), 2, [1.0, 2.5]),
        (float("inf"), 1, [float("inf")]),
    ],
)
def test_numbers_are_taken_as_objectives(value: Any, n: int, values: list[float]) -> None:
    assert as_values(value, n) == values


@pytest.mark.parametrize(
    ("value", "n"),
    [
        (None, 1),
        ("abc", 1),
        (float("nan"), 1),
        ([1, 2], 1),
        (1.0, 2),
        ([1, float("nan")], 2),
        ([], 1),
        ({"a": 1}, 1),
    ],
)
def test_anything_else_is_refused_with_what_it_was(value: Any, n: int) -> None:
    with pytest.raises(ValueError, match=rf"must return {n} number\(s\)") as error:
        as_values(value, n)
    assert repr(value) in str(error.value)


def test_first_three_failing_alike_are_too_many(plan: Plan, ended: Ended) -> None:
    assert "the first 3 trials failed alike: Boom: 1" in too_many_failures(
        ended("Boom: 1", "Boom: 1", "Boom: 1"), plan
    )


@pytest.mark.parametrize(
    "ends",
    [
        ("E: 1", "E: 1", "E: 2"),
        ("E: 1", "E: 1", "E: 1", 0.5),
        ("E: 1", "E: 1", "E: 1", None),
        ("E: 1", "E: 1"),
    ],
)
def test_failures_among_others_or_of_several_kinds_are_borne(
    plan: Plan, ended: Ended, ends: tuple[Any, ...]
) -> None:
    assert too_many_failures(ended(*ends), plan) == ""


def test_max_failures_are_borne_and_one_more_is_not(plan: Plan, ended: Ended) -> None:
    queue = ended(0.5, "E: 1", "E: 2", 0.5)
    assert too_many_failures(queue, replace(plan, max_failures=2)) == ""
    assert "2 trials failed, and max_failures=1" in too_many_failures(
        queue, replace(plan, max_failures=1)
    )
    assert too_many_failures(queue, replace(plan, max_failures=0))


def test_max_failure_rate_is_a_share_of_the_finished(plan: Plan, ended: Ended) -> None:
    queue = ended(0.5, "E: 1", "E: 2", None)
    queue.fill(100)
    assert too_many_failures(queue, replace(plan, max_failure_rate=0.5)) == ""
    assert "2 of 4 trials failed" in too_many_failures(queue, replace(plan, max_failure_rate=0.4))


def test_dropped_trials_are_no_failures(plan: Plan, ended: Ended) -> None:
    queue = ended(0.5, "E: 1")
    queue.fill(3)
    taken = queue.take({})
    assert taken is not None
    queue.give_up(taken[0], taken[1].number, "it was interrupted", blame=False)
    assert too_many_failures(queue, replace(plan, max_failures=1)) == ""
    assert "1 trials failed" in too_many_failures(queue, replace(plan, max_failures=0))


def test_run_name_begins_with_what_tells_trials_apart(plan: Plan) -> None:
    queue = plan.open()
    queue.fill(2)
    queue.suggest([{"optimizer.lr": 0.00313, "data.batch_size": 64, "name": "it's"}], None)
    taken = queue.take(
        {
            "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
            "data.batch_size": CategoricalDistribution([32, 64]),
            "name": CategoricalDistribution(["it's", "b"]),
        }
    )
    assert taken is not None
    stratum, trial = taken
    assert run_name(stratum, trial) == f"cnn #{trial.number} lr=0.0031 batch=64 name=its"

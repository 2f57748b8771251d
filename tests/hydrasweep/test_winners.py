"""Who is confirmed, who wins, and what is said of the winners."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hydrasweep import results, winners
from hydrasweep.given import Race
from hydrasweep.storage import close_storages
from hydrasweep.studies import Studies
from hydrasweep.trials import CONFIRM, FINAL, SEARCH

SETTINGS = OmegaConf.create({"top": 2, "n_seeds": 3, "seed": "seed"})
SPACE = {"x": FloatDistribution(0.0, 1.0)}
Phases = dict[str, Studies]


def storage(folder: Path) -> DictConfig:
    backend = {
        "_target_": "optuna.storages.journal.JournalFileBackend",
        "file_path": f"{folder}/journal",
    }
    return OmegaConf.create({"_target_": "optuna.storages.JournalStorage", "log_storage": backend})


@pytest.fixture
def phases(tmp_path: Path) -> Iterator[Phases]:
    """The phases of a sweep over the strata a and b, which hold nothing yet."""
    yield {
        phase: Studies.open(
            "s", storage(tmp_path), ["a", "b"], ["maximize"], None, None, phase=phase
        )
        for phase in (SEARCH, CONFIRM, FINAL)
    }
    close_storages()


def ended(x: float, value: float, steps: int = 9, state: str = "COMPLETE") -> FrozenTrial:
    return create_trial(
        state=TrialState[state],
        value=value,
        params={"x": x},
        distributions=SPACE,
        intermediate_values=dict.fromkeys(range(1, steps + 1), value),
    )


def searched(phases: Phases, **values: float) -> None:
    """Let each stratum have trials, such as ``x2=0.9`` for one with x=0.2."""
    for stratum in phases[SEARCH].strata:
        stratum.study.add_trials([ended(int(n[1:]) / 10, value) for n, value in values.items()])


def confirm(phases: Phases, value: Callable[[Any], float | None], seed: int = 0) -> None:
    """Confirm what was found; a trial whose value is None fails."""
    phases[CONFIRM].give(winners.confirming(phases[SEARCH], SETTINGS, seed))
    work_off(phases[CONFIRM], value)


def finish(
    phases: Phases, value: Callable[[Any], float | None], **numbers: Callable[[Any], float]
) -> None:
    """Run the final trials, which record ``numbers``."""
    phases[FINAL].give(winners.finals(phases[CONFIRM], "seed", retrains=True))

    def record(trial: Trial) -> None:
        for name, number in numbers.items():
            trial.set_user_attr(name, number(trial.params))

    work_off(phases[FINAL], value, record)


def work_off(
    studies: Studies,
    value: Callable[[Any], float | None],
    record: Callable[[Trial], None] | None = None,
) -> None:
    while taken := studies.take({}):
        stratum, trial = taken
        if record:
            record(trial)
        result = value(trial.params)
        stratum.study.tell(trial, result, None if result is not None else TrialState.FAIL)


# Who is confirmed


def test_candidates_are_the_best_that_ended_then_the_pruned_that_came_furthest(
    phases: Phases,
) -> None:
    stratum = phases[SEARCH].strata[0]
    stratum.study.add_trials(
        [
            ended(0.1, 0.99, 1, "PRUNED"),
            ended(0.2, 0.50, 3, "PRUNED"),
            ended(0.3, 0.60, 3, "PRUNED"),
            ended(0.4, 0.70),
            ended(0.5, 0.80),
            ended(0.5, 0.75),  # settings that are among them already
            create_trial(state=TrialState.FAIL, params={"x": 0.6}, distributions=SPACE),
            create_trial(state=TrialState.PRUNED, params={"x": 0.7}, distributions=SPACE),
        ]
    )
    found = [trial.params["x"] for trial in winners.candidates(stratum)]
    assert found == [0.5, 0.4, 0.3, 0.2, 0.1]
    assert [t.params["x"] for t in winners.candidates(stratum, 2)] == [0.5, 0.4]


def test_complete_trials_rank_by_their_value_whatever_their_steps(phases: Phases) -> None:
    """Early stopping of the app's own, or epochs that are searched, make steps no merit."""
    stratum = phases[SEARCH].strata[0]
    stratum.study.add_trials([ended(0.1, 0.7, 9), ended(0.2, 0.8, 2), ended(0.3, 0.9, 0)])
    assert [t.params["x"] for t in winners.candidates(stratum)] == [0.3, 0.2, 0.1]


def test_candidates_of_a_loss_are_the_lowest(tmp_path: Path) -> None:
    studies = Studies.open("s", storage(tmp_path), [""], ["minimize"], None, None)
    studies.strata[0].study.add_trials([ended(0.1, 3.0), ended(0.2, 1.0), ended(0.3, 2.0)])
    assert [t.params["x"] for t in winners.candidates(studies.strata[0], 2)] == [0.2, 0.3]
    close_storages()


def test_in_a_race_the_leader_alone_is_given_seeds(phases: Phases) -> None:
    searched(phases, x1=0.5, x2=0.49)
    confirm = phases[CONFIRM]
    confirm.give(winners.confirming(phases[SEARCH], SETTINGS, 10), race=Race("seed"))
    taken = [confirm.take({}) for _ in range(6)]
    assert confirm.take({}) is None  # three of each stratum's leader run: the others wait for them
    assert confirm.n_to_do() == 0
    assert not confirm.is_idle()
    params = [trial.params for _, trial in filter(None, taken)]
    assert {(each["x"], each["seed"]) for each in params} == {(0.1, seed) for seed in (11, 12, 13)}
    for stratum, trial in filter(None, taken):  # in b it falls behind
        stratum.study.tell(trial, 0.5 if stratum.value == "a" else 0.1)
    work_off(confirm, lambda _: 0.3)
    a, b = (
        [(t.params["x"], t.params["seed"]) for t in stratum.trials()] for stratum in confirm.strata
    )
    assert a == [(0.1, seed) for seed in (11, 12, 13)]
    assert b == [*a, *((0.2, seed) for seed in (11, 12, 13))]
    assert confirm.is_done()


def test_each_candidate_is_confirmed_on_each_seed_once(phases: Phases) -> None:
    searched(phases, x1=0.7, x2=0.9, x3=0.8)
    for _ in range(2):  # an interrupted sweep comes by here again
        confirm(phases, lambda params: params["x"], seed=10)
    for stratum in phases[CONFIRM].strata:
        seen = sorted((t.params["x"], t.params["seed"]) for t in stratum.trials())
        assert seen == [(x, seed) for x in (0.2, 0.3) for seed in (11, 12, 13)]


def test_longer_search_has_its_new_best_confirmed_beside_the_old(phases: Phases) -> None:
    searched(phases, x1=0.7, x2=0.8)
    confirm(phases, lambda params: params["x"])
    searched(phases, x3=0.9)
    confirm(phases, lambda params: params["x"])
    for stratum in phases[CONFIRM].strata:
        tried = [trial.params["x"] for trial in stratum.trials()]
        assert sorted(tried) == [0.1] * 3 + [0.2] * 3 + [0.3] * 3
    assert [winner.params["x"] for winner in winners.winners(phases, "seed")] == [0.3, 0.3]


# Who wins


def test_the_best_mean_wins_and_is_told_beside_what_the_search_saw(phases: Phases) -> None:
    lucky, steady = 0.2, 0.3
    searched(phases, x2=0.99, x3=0.98)
    confirm(phases, lambda p: 0.9 + 0.01 * p["seed"] + (p["x"] == steady) * 0.02)
    finish(
        phases,
        lambda _: 0.85,
        **{"test/accuracy": lambda p: 0.8 + 0.01 * p["seed"], "size": lambda _: 7.0},
    )
    found = winners.winners(phases, "seed")
    assert [winner.stratum for winner in found] == ["a", "b"]
    for winner in found:
        assert winner.params == {"x": steady} != {"x": lucky}
        assert winner.searched == 0.98
        assert not winner.was_pruned
        assert winner.confirmed.mean == pytest.approx(0.94)
        tested = winner.recorded["test/accuracy"]
        assert tested.values == pytest.approx([0.81, 0.82, 0.83])
        assert tested.sd == pytest.approx(statistics.stdev([0.81, 0.82, 0.83]))
        assert str(tested) == "0.8200 ± 0.0100 (n=3)"
        assert winner.recorded["size"].sd == 0
        assert [trial.params["seed"] for trial in winner.final] == [1, 2, 3]
        assert [trial.value for trial in winner.final] == [0.85] * 3
        assert winner.folder() == f"{winner.stratum}-final-000"


def test_setting_that_fails_on_a_seed_loses_to_one_that_came_through_all(phases: Phases) -> None:
    searched(phases, x2=0.99, x3=0.98)
    confirm(phases, lambda p: None if (p["x"], p["seed"]) == (0.2, 2) else p["x"] == 0.2)
    for winner in winners.winners(phases, "seed"):
        assert winner.params == {"x": 0.3}
        assert (winner.confirmed.mean, winner.n_failed) == (0.0, 0)


def test_winner_that_failed_on_a_seed_is_trained_on_the_others_and_told_so(phases: Phases) -> None:
    searched(phases, x2=0.99)
    confirm(phases, lambda p: None if p["seed"] == 2 else 0.9)
    finish(phases, lambda _: 0.8)
    for winner in winners.winners(phases, "seed"):
        assert winner.n_failed == 1
        assert winner.record("model")["confirm"]["n_failed"] == 1
        assert [trial.params["seed"] for trial in winner.final] == [1, 3]


def test_a_confirmation_that_is_not_at_its_end_tells_what_there_is(phases: Phases) -> None:
    assert winners.winners({SEARCH: phases[SEARCH]}, "seed") == []
    phases[SEARCH].strata[0].study.add_trials([ended(0.5, 0.9, 2, "PRUNED")])
    assert winners.winners(phases, "seed") == []
    phases[CONFIRM].give(winners.confirming(phases[SEARCH], SETTINGS, 0))
    stratum, trial = phases[CONFIRM].take({}) or pytest.fail("nothing is given")
    stratum.study.tell(trial, 0.7)
    (winner,) = winners.winners(phases, "seed")
    assert (winner.confirmed.values, winner.confirmed.sd) == ([0.7], None)
    assert winner.was_pruned
    assert winner.recorded == {}
    assert winner.record("model")["final"] == {}


def test_overall_is_the_best_by_confirmation_and_not_by_what_finals_record(
    phases: Phases,
) -> None:
    for stratum, x in zip(phases[SEARCH].strata, (0.1, 0.2), strict=True):
        stratum.study.add_trials([ended(x, 0.9)])
    confirm(phases, lambda params: params["x"])
    finish(phases, lambda _: 0.5, **{"test/accuracy": lambda p: 1 - p["x"]})
    found = winners.winners(phases, "seed")
    assert winners.overall(found, StudyDirection.MAXIMIZE).stratum == "b"
    assert winners.overall(found, StudyDirection.MINIMIZE).stratum == "a"


def test_files_hold_the_winners_and_every_confirming_trial(phases: Phases, tmp_path: Path) -> None:
    phases[SEARCH].strata[0].study.add_trials([ended(0.5, 0.9)])
    confirm(phases, lambda _: 0.75)
    results.write_all(phases, tmp_path, "model", "seed")
    summary: Any = OmegaConf.load(tmp_path / "results.yaml")
    assert summary.winners.a.confirm == {
        **{"mean": 0.75, "sd": 0.0, "n": 3, "values": [0.75] * 3},
        "n_failed": 0,
    }
    assert summary.winners.a.params == {"model": "a", "x": 0.5}
    assert summary.winners.a.search == {"number": 0, "value": 0.9, "steps": 9}
    header, *rows = (tmp_path / "confirmation.csv").read_text().splitlines()
    assert header == "phase,number,state,value,steps,duration_s,model,x,seed"
    assert [row.split(",")[:2] for row in rows] == [["confirm", str(i)] for i in range(3)]

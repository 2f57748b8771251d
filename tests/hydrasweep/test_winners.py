"""Which trials are confirmed, which settings win, and what is reported of the winners."""

import statistics
import threading
from functools import partial

import optuna
import pytest
from omegaconf import OmegaConf
from opened import SPACE, begin
from optuna.study import StudyDirection
from optuna.trial import TrialState
from planted import trial

from hydrasweep import results, winners
from hydrasweep.given import Race
from hydrasweep.stratum import Stratum
from hydrasweep.studies import Studies
from hydrasweep.trials import CONFIRM, FINAL, SEARCH

SETTINGS = OmegaConf.create({"top": 2, "n_seeds": 3, "seed": "seed"})
PRUNED, FAIL = TrialState.PRUNED, TrialState.FAIL
MAXIMIZE, MINIMIZE = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
Phases = dict[str, Studies]
ended = partial(trial, space=SPACE)  # ended(0.9, x=0.1): a trial with that value


def in_memory(phase=SEARCH, *strata, direction="maximize"):
    """The studies of a phase, in memory and without trials."""
    made = [
        Stratum(value, optuna.create_study(direction=direction), phase) for value in strata or "ab"
    ]
    return Studies("s", made, threading.RLock())


@pytest.fixture
def phases(request):
    """The phases of a sweep over the strata a and b, without trials. The objective is maximized
    unless the test is parametrized with another direction."""
    direction = getattr(request, "param", "maximize")
    return {phase: in_memory(phase, direction=direction) for phase in (SEARCH, CONFIRM, FINAL)}


def searched(phases, *values):
    """Add trials with x=0.1, 0.2, … and these values to each stratum."""
    for stratum in phases[SEARCH].strata:
        stratum.study.add_trials([ended(v, x=(i + 1) / 10) for i, v in enumerate(values)])


def confirm(phases, value, seed=0):
    """Run the confirming trials. Those whose value is None fail."""
    phases[CONFIRM].give(winners.confirming(phases[SEARCH], SETTINGS, seed))
    run_all(phases[CONFIRM], value)


def finish(phases, value, **numbers):
    """Run the final trials, which record ``numbers``."""
    phases[FINAL].give(winners.finals(phases[CONFIRM], "seed", retrains=True))

    def record(running):
        for name, number in numbers.items():
            running.set_user_attr(name, number(running.params))

    run_all(phases[FINAL], value, record)


def run_all(
    studies,
    value,
    record=lambda _: None,
):
    while begun := studies.take({}):
        stratum, running = begun
        record(running)
        result = value(running.params)
        stratum.study.tell(running, result, FAIL if result is None else None)


def points(studies):
    """x and the seed of the trials of each stratum."""
    return [
        [(t.params["x"], t.params["seed"]) for t in stratum.trials()] for stratum in studies.strata
    ]


# Which trials are confirmed


@pytest.mark.parametrize(
    ("direction", "trials", "expected"),
    [
        ("maximize", [ended(0.7, x=0.1), ended(0.9, x=0.2), ended(0.8, x=0.3)], [0.2, 0.3, 0.1]),
        ("minimize", [ended(0.7, x=0.1), ended(0.9, x=0.2), ended(0.8, x=0.3)], [0.1, 0.3, 0.2]),
        # Equal settings count once.
        ("maximize", [ended(0.8, x=0.1), ended(0.75, x=0.1), ended(0.7, x=0.2)], [0.1, 0.2]),
        # Complete trials are ranked by their value, however many steps they have.
        (
            "maximize",
            [ended(v, x=x, reports=[v] * n) for x, v, n in ((0.1, 7, 9), (0.2, 8, 2), (0.3, 9, 0))],
            [0.3, 0.2, 0.1],
        ),
        # Pruned ones come after them, by their steps and then by their last report.
        (
            "maximize",
            [
                ended(0.99, x=0.1, state=PRUNED, reports=[0.99]),
                ended(0.50, x=0.2, state=PRUNED, reports=[0.5] * 3),
                ended(0.60, x=0.3, state=PRUNED, reports=[0.6] * 3),
                ended(0.40, x=0.4, reports=[0.4]),
            ],
            [0.4, 0.3, 0.2, 0.1],
        ),
        ("maximize", [ended(state=FAIL, x=0.1), ended(state=PRUNED, x=0.2)], []),
    ],
)
def test_candidates_are_ranked(direction, trials, expected):
    (stratum,) = in_memory(SEARCH, "a", direction=direction).strata
    stratum.study.add_trials(trials)
    for top in (None, 2):
        assert [t.params["x"] for t in winners.candidates(stratum, top)] == expected[:top]


def test_each_candidate_is_confirmed_on_each_seed_once(phases):
    searched(phases, 0.7, 0.9, 0.8)
    for _ in range(2):  # as in a resumed sweep
        confirm(phases, lambda params: params["x"], seed=10)
    expected = [(x, seed) for x in (0.2, 0.3) for seed in (11, 12, 13)]
    assert [sorted(each) for each in points(phases[CONFIRM])] == [expected] * 2


def test_race_gives_seeds_to_the_leader_only(phases):
    searched(phases, 0.5, 0.49)
    confirming = phases[CONFIRM]
    confirming.give(winners.confirming(phases[SEARCH], SETTINGS, 10), race=Race("seed"))
    begun = [begin(confirming, {}) for _ in range(6)]  # three seeds of the leader of each stratum
    assert confirming.take({}) is None  # the other candidates wait for their results
    assert confirming.n_to_do() == 0
    assert not confirming.is_idle()
    for stratum, running in begun:  # in b the leader falls behind
        stratum.study.tell(running, 0.5 if stratum.value == "a" else 0.1)
    run_all(confirming, lambda _: 0.3)
    leader, other = ([(x, seed) for seed in (11, 12, 13)] for x in (0.1, 0.2))
    assert points(confirming) == [leader, leader + other]
    assert confirming.is_done()


def test_longer_search_has_its_new_best_confirmed_beside_the_old(phases):
    searched(phases, 0.7, 0.8)
    confirm(phases, lambda params: params["x"])
    searched(phases, 0.0, 0.0, 0.9)
    confirm(phases, lambda params: params["x"])
    for each in points(phases[CONFIRM]):
        assert sorted(x for x, _ in each) == [0.1] * 3 + [0.2] * 3 + [0.3] * 3
    assert [winner.params["x"] for winner in winners.winners(phases, "seed")] == [0.3, 0.3]


# Which settings win


def test_best_mean_wins_and_is_reported_with_its_value_in_the_search(phases):
    searched(phases, 0.5, 0.99, 0.98)
    confirm(phases, lambda p: 0.9 + 0.01 * p["seed"] + (p["x"] == 0.3) * 0.02)
    numbers = {"test/accuracy": lambda p: 0.8 + 0.01 * p["seed"], "size": lambda _: 7.0}
    finish(phases, lambda _: 0.85, **numbers)
    found = winners.winners(phases, "seed")
    assert [winner.stratum for winner in found] == ["a", "b"]
    for winner in found:
        assert winner.params == {"x": 0.3}
        assert (winner.searched, winner.was_pruned) == (0.98, False)
        assert winner.confirmed.mean == pytest.approx(0.94)
        tested = winner.recorded["test/accuracy"]
        assert tested.values == pytest.approx([0.81, 0.82, 0.83])
        assert tested.sd == pytest.approx(statistics.stdev([0.81, 0.82, 0.83]))
        assert str(tested) == "0.8200 ± 0.0100 (n=3)"
        assert winner.recorded["size"].sd == 0
        assert {t.params["seed"]: t.value for t in winner.final} == dict.fromkeys((1, 2, 3), 0.85)
        assert winner.folder() == f"{winner.stratum}-final-000"


@pytest.mark.parametrize("phases", ["minimize"], indirect=True)
def test_lowest_mean_wins_if_the_objective_is_minimized(phases):
    searched(phases, 0.3, 0.2, 0.1)
    confirm(phases, lambda p: 1 - p["x"] if p["x"] == 0.2 else 0.9)
    assert [winner.params["x"] for winner in winners.winners(phases, "seed")] == [0.2] * 2


def test_setting_that_fails_on_a_seed_loses_to_one_that_does_not(phases):
    searched(phases, 0.5, 0.99, 0.98)
    confirm(phases, lambda p: None if (p["x"], p["seed"]) == (0.2, 2) else p["x"] == 0.2)
    for winner in winners.winners(phases, "seed"):
        assert winner.params == {"x": 0.3}
        assert (winner.confirmed.mean, winner.n_failed) == (0.0, 0)


def test_winner_that_failed_on_a_seed_says_so_and_is_trained_on_the_others(phases):
    searched(phases, 0.99)
    confirm(phases, lambda p: None if p["seed"] == 2 else 0.9)
    finish(phases, lambda _: 0.8)
    for winner in winners.winners(phases, "seed"):
        assert winner.n_failed == winner.record("model")["confirm"]["n_failed"] == 1
        assert [each.params["seed"] for each in winner.final] == [1, 3]


def test_unfinished_confirmation_has_winners_of_what_there_is(phases):
    assert winners.winners({SEARCH: phases[SEARCH]}, "seed") == []
    phases[SEARCH].strata[0].study.add_trial(ended(0.9, x=0.5, state=PRUNED, reports=[0.9]))
    assert winners.winners(phases, "seed") == []
    phases[CONFIRM].give(winners.confirming(phases[SEARCH], SETTINGS, 0))
    stratum, running = begin(phases[CONFIRM], {})
    stratum.study.tell(running, 0.7)
    (winner,) = winners.winners(phases, "seed")
    assert (winner.confirmed.values, winner.confirmed.sd) == ([0.7], None)
    assert winner.was_pruned
    assert winner.recorded == winner.record("model")["final"] == {}


@pytest.mark.parametrize(
    ("values", "best", "by", "error", "is_more"),
    [
        ([0.93, 0.94, 0.95], "b", "0.0300", "0.0082", True),
        ([0.88, 0.95, 0.96], "b", "0.0200", "0.0258", False),
        ([0.86, 0.87, 0.88], "a", "0.0400", "0.0082", True),
    ],
)
def test_best_confirmed_mean_leads_and_is_compared_with_its_standard_error(
    phases, values, best, by, error, is_more
):
    searched(phases, 0.9)
    scores = {"a": [0.90, 0.91, 0.92], "b": values}
    for stratum in phases[CONFIRM].strata:
        stratum.study.add_trials([ended(v, x=0.1) for v in scores[stratum.value]])
    # What final trials record does not decide.
    finish(phases, lambda _: 0.5, **{"test/accuracy": lambda _: 0.0})
    found = winners.winners(phases, "seed")
    assert winners.overall(found, MAXIMIZE).stratum == best
    assert winners.overall(found, MINIMIZE).stratum != best
    text = winners.lead(found, MAXIMIZE)
    assert text.split()[0] == best
    assert by in text
    assert error in text
    assert ("more" in text, "less" in text) == (is_more, not is_more)


def test_files_have_the_winners_and_every_confirming_trial(phases, tmp_path):
    phases[SEARCH].strata[0].study.add_trial(ended(0.9, x=0.5, reports=[0.9] * 9))
    confirm(phases, lambda _: 0.75)
    results.write_all(phases, tmp_path, "model", "seed")
    winner = OmegaConf.load(tmp_path / "results.yaml").winners.a
    assert winner == {
        "params": {"model": "a", "x": 0.5},
        "search": {"number": 0, "value": 0.9, "steps": 9},
        "confirm": {"mean": 0.75, "sd": 0.0, "n": 3, "values": [0.75] * 3, "n_failed": 0},
        "final": {},
    }
    header, *rows = (tmp_path / "confirmation.csv").read_text().splitlines()
    assert header == "phase,number,state,value,steps,duration_s,model,x,seed"
    assert [row.split(",")[:2] for row in rows] == [["confirm", str(i)] for i in range(3)]

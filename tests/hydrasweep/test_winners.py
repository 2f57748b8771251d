"""Who is confirmed, who wins, and what is said of the winners."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.search import results, winners
from hydrasweep.search.queue import Queue
from hydrasweep.search.trial import CONFIRM, FINAL, SEARCH

SETTINGS = OmegaConf.create({"top": 2, "n_seeds": 3, "seed": "seed"})
SPACE = {"x": FloatDistribution(0.0, 1.0)}
Phases = dict[str, Queue]


@pytest.fixture
def phases(tmp_path: Path) -> Phases:
    """The phases of a sweep over the strata a and b, which hold nothing yet."""
    storage = f"sqlite:///{tmp_path}/study.db"
    return {
        phase: Queue.open("s", storage, ["a", "b"], ["maximize"], None, None, phase=phase)
        for phase in (SEARCH, CONFIRM, FINAL)
    }


def ended(x: float, value: float, epochs: int = 9, state: str = "COMPLETE") -> FrozenTrial:
    return create_trial(
        state=TrialState[state],
        value=value,
        params={"x": x},
        distributions=SPACE,
        intermediate_values=dict.fromkeys(range(1, epochs + 1), value),
    )


def work_off(queue: Queue, value: Any) -> None:
    """Take every waiting trial and complete it with ``value(params)``."""
    while taken := queue.take({}):
        stratum, trial = taken
        stratum.study.tell(trial, value(trial.params))


def n_waiting(queue: Queue) -> list[int]:
    return [sum(t.state == TrialState.WAITING for t in s.trials()) for s in queue.strata]


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
        ]
    )
    found = [trial.params["x"] for trial in winners.candidates(stratum)]
    assert found == [0.5, 0.4, 0.3, 0.2, 0.1]
    assert [t.params["x"] for t in winners.candidates(stratum, 2)] == [0.5, 0.4]


def test_candidates_of_a_loss_are_the_lowest(tmp_path: Path) -> None:
    queue = Queue.open("s", f"sqlite:///{tmp_path}/s.db", [""], ["minimize"], None, None)
    queue.strata[0].study.add_trials([ended(0.1, 3.0), ended(0.2, 1.0), ended(0.3, 2.0)])
    assert [t.params["x"] for t in winners.candidates(queue.strata[0], 2)] == [0.2, 0.3]


def test_each_candidate_is_confirmed_on_each_seed_once(phases: Phases) -> None:
    for stratum in phases[SEARCH].strata:
        stratum.study.add_trials([ended(0.1, 0.7), ended(0.2, 0.9), ended(0.3, 0.8)])
    for _ in range(2):  # an interrupted sweep comes by here again
        winners.confirm(phases[SEARCH], phases[CONFIRM], SETTINGS, seed=10)
    assert n_waiting(phases[CONFIRM]) == [6, 6]
    work_off(phases[CONFIRM], lambda params: params["x"])
    for stratum in phases[CONFIRM].strata:
        seen = {(t.params["x"], t.params["seed"]) for t in stratum.trials()}
        assert seen == {(x, seed) for x in (0.2, 0.3) for seed in (11, 12, 13)}


def test_the_best_mean_wins_and_is_told_beside_what_the_search_believed(phases: Phases) -> None:
    lucky, steady = 0.2, 0.3
    for stratum in phases[SEARCH].strata:
        stratum.study.add_trials([ended(lucky, 0.99), ended(steady, 0.98)])
    winners.confirm(phases[SEARCH], phases[CONFIRM], SETTINGS, seed=0)
    work_off(phases[CONFIRM], lambda p: 0.9 + 0.01 * p["seed"] + (p["x"] == steady) * 0.02)
    winners.finish(phases[CONFIRM], phases[FINAL], "seed")
    assert n_waiting(phases[FINAL]) == [3, 3]
    work_off(phases[FINAL], lambda p: 0.8 + 0.01 * p["seed"])
    found = winners.winners(phases, "seed")
    assert [winner.stratum for winner in found] == ["a", "b"]
    for winner in found:
        assert winner.params == {"x": steady}
        assert winner.believed == 0.98
        assert winner.confirmed.mean == pytest.approx(0.94)
        assert winner.tested is not None
        assert winner.tested.values == pytest.approx([0.81, 0.82, 0.83])
        assert winner.tested.sd == pytest.approx(statistics.stdev([0.81, 0.82, 0.83]))
        assert [trial.params["seed"] for trial in winner.final] == [1, 2, 3]
        assert winner.folder() == f"{winner.stratum}-final-000"
        assert str(winner.tested) == "0.8200 ± 0.0100 (n=3)"


def test_a_confirmation_that_is_not_at_its_end_tells_what_there_is(phases: Phases) -> None:
    assert winners.winners({SEARCH: phases[SEARCH]}, "seed") == []
    phases[SEARCH].strata[0].study.add_trials([ended(0.5, 0.9)])
    winners.confirm(phases[SEARCH], phases[CONFIRM], SETTINGS, seed=0)
    assert winners.winners(phases, "seed") == []
    stratum, trial = phases[CONFIRM].take({}) or pytest.fail("nothing is queued")
    stratum.study.tell(trial, 0.7)
    (winner,) = winners.winners(phases, "seed")
    assert (winner.confirmed.values, winner.confirmed.sd) == ([0.7], None)
    assert winner.tested is None
    assert winner.record("model")["test"] is None


def test_overall_is_the_best_by_confirmation_and_not_by_the_test(phases: Phases) -> None:
    for stratum, x in zip(phases[SEARCH].strata, (0.1, 0.2), strict=True):
        stratum.study.add_trials([ended(x, 0.9)])
    winners.confirm(phases[SEARCH], phases[CONFIRM], SETTINGS, seed=0)
    work_off(phases[CONFIRM], lambda params: params["x"])
    winners.finish(phases[CONFIRM], phases[FINAL], "seed")
    work_off(phases[FINAL], lambda params: 1 - params["x"])
    found = winners.winners(phases, "seed")
    assert winners.overall(found, StudyDirection.MAXIMIZE).stratum == "b"
    assert winners.overall(found, StudyDirection.MINIMIZE).stratum == "a"


def test_files_hold_the_winners_and_every_confirming_trial(phases: Phases, tmp_path: Path) -> None:
    phases[SEARCH].strata[0].study.add_trials([ended(0.5, 0.9)])
    winners.confirm(phases[SEARCH], phases[CONFIRM], SETTINGS, seed=0)
    work_off(phases[CONFIRM], lambda _: 0.75)
    results.write_all(phases, tmp_path, "model", "seed")
    summary: Any = OmegaConf.load(tmp_path / "results.yaml")
    assert summary.winners.a.confirm == {"mean": 0.75, "sd": 0.0, "n": 3, "values": [0.75] * 3}
    assert summary.winners.a.params == {"model": "a", "x": 0.5}
    assert summary.winners.a.search == {"number": 0, "value": 0.9}
    header, *rows = (tmp_path / "confirmation.csv").read_text().splitlines()
    assert header == "phase,number,state,value,epochs,duration_s,model,x,seed"
    assert [row.split(",")[:2] for row in rows] == [["confirm", str(i)] for i in range(3)]

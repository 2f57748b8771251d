"""What is kept of a sweep: the best, what pruning saved, the files."""

import csv
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hydrasweep.search import results
from hydrasweep.search.queue import DROPPED, Queue, Stratum, make_lock
from hydrasweep.search.trial import SEARCH

SPACE = {
    "optimizer.lr": FloatDistribution(0.0, 1.0),
    "data.batch_size": CategoricalDistribution([32, 64]),
}


def trial(state: TrialState, *values: float, epochs: int = 0, **attrs: Any) -> FrozenTrial:
    return create_trial(
        state=state,
        values=list(values) or None,
        params={} if state == TrialState.WAITING else {"optimizer.lr": 0.5, "data.batch_size": 64},
        distributions={} if state == TrialState.WAITING else SPACE,
        intermediate_values=dict.fromkeys(range(1, epochs + 1), 0.5),
        user_attrs=attrs,
    )


def queue_of(directions: list[str], **trials: list[FrozenTrial]) -> Queue:
    storage = optuna.storages.InMemoryStorage()
    strata = []
    for value, some in trials.items():
        study = optuna.create_study(study_name=f"s/{value}", storage=storage, directions=directions)
        study.add_trials(some)
        strata.append(Stratum(value, study))
    return Queue("s", strata, make_lock(storage))


@pytest.mark.parametrize(("direction", "extremum"), [("maximize", max), ("minimize", min)])
def test_best_is_the_extremum_of_the_complete(direction: str, extremum: Any) -> None:
    values = [0.3, -0.9, 0.9, 0.1]
    ended = [
        trial(TrialState.PRUNED, 5.0),
        *(trial(TrialState.COMPLETE, value) for value in values),
        trial(TrialState.PRUNED, -5.0),
        trial(TrialState.FAIL),
    ]
    ((_, best),) = results.best(queue_of([direction], a=ended).trials())
    assert best.value == extremum(values)


def test_nothing_complete_has_no_best() -> None:
    queue = queue_of(["maximize"], a=[trial(TrialState.FAIL), trial(TrialState.WAITING)])
    assert results.best(queue.trials()) == []


points = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 2), min_size=1, max_size=12)
directions = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=2, max_size=2)


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(points, directions)
def test_pareto_front_is_what_no_other_beats(
    values: list[tuple[float, ...]], names: list[str]
) -> None:
    queue = queue_of(names, a=[trial(TrialState.COMPLETE, *point) for point in values])
    front = [tuple(best.values) for _, best in results.best(queue.trials())]

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        better = [x > y if n == "maximize" else x < y for x, y, n in zip(a, b, names, strict=True)]
        return any(better) and all(up or x == y for up, x, y in zip(better, a, b, strict=True))

    assert front == [p for p in values if not any(beats(other, p) for other in values)]


def test_pruning_saves_the_epochs_that_were_left() -> None:
    ended = [
        trial(TrialState.COMPLETE, 0.9, epochs=5),
        trial(TrialState.PRUNED, 0.1, epochs=1),
        trial(TrialState.PRUNED, 0.2, epochs=3),
        trial(TrialState.FAIL, epochs=2),
        trial(TrialState.PRUNED, epochs=0),
    ]
    epochs, seconds = results.saved(ended)
    assert epochs == 4 + 2
    paces = [results.seconds(ended[1]), results.seconds(ended[2]) / 3]
    assert seconds == pytest.approx(4 * paces[0] + 2 * paces[1])
    assert results.saved([]) == (0, 0.0)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_table_has_a_row_for_each_trial_begun_and_the_searched_settings_by_name(
    tmp_path: Path,
) -> None:
    queue = queue_of(
        ["maximize"],
        cnn=[
            trial(TrialState.COMPLETE, 0.75, epochs=2),
            trial(TrialState.FAIL, **{DROPPED: "killed"}),
            trial(TrialState.WAITING),
        ],
        lenet5=[trial(TrialState.PRUNED, 0.5, epochs=1)],
    )
    results.write_all({SEARCH: queue}, tmp_path, "model")
    header = (tmp_path / "trials.csv").read_text().splitlines()[0]
    names = "number,state,value,epochs,duration_s,model,optimizer.lr,data.batch_size"
    assert header == names
    found = {row["model"]: row for row in rows(tmp_path)}
    assert len(rows(tmp_path)) == 2
    assert found["cnn"] | {"duration_s": ""} == {
        "number": "0",
        "state": "COMPLETE",
        "value": "0.75",
        "epochs": "2",
        "duration_s": "",
        "model": "cnn",
        "optimizer.lr": "0.5",
        "data.batch_size": "64",
    }
    assert (found["lenet5"]["state"], found["lenet5"]["epochs"]) == ("PRUNED", "1")


def test_several_objectives_have_a_column_each(tmp_path: Path) -> None:
    queue = queue_of(["maximize", "minimize"], **{"": [trial(TrialState.COMPLETE, 0.75, 3.0)]})
    results.write_all({SEARCH: queue}, tmp_path, None)
    (row,) = rows(tmp_path)
    assert (row["value_0"], row["value_1"]) == ("0.75", "3.0")
    assert "value" not in row
    stock = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert stock == {
        "name": "optuna",
        "solutions": [
            {"params": {"optimizer.lr": 0.5, "data.batch_size": 64}, "values": [0.75, 3.0]}
        ],
    }


def test_summary_has_counts_and_the_best_of_each_stratum(tmp_path: Path) -> None:
    queue = queue_of(
        ["maximize"],
        cnn=[trial(TrialState.COMPLETE, 0.5), trial(TrialState.COMPLETE, 0.75)],
        lenet5=[trial(TrialState.FAIL)],
    )
    results.write_all({SEARCH: queue}, tmp_path, "model")
    summary = OmegaConf.to_container(OmegaConf.load(tmp_path / "results.yaml"))
    assert isinstance(summary, dict)
    assert summary["trials"] == {"COMPLETE": 2, "FAIL": 1}
    assert summary["best"]["lenet5"] == []
    (best,) = summary["best"]["cnn"]
    assert (best["number"], best["values"], best["folder"]) == (1, [0.75], "cnn-001")
    assert best["params"]["model"] == "cnn"
    stock = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert (stock.best_value, stock.best_params.model) == (0.75, "cnn")


def test_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "results.yaml"
    results.write(path, "old" * 1000)
    with path.open() as reader:  # who has it open goes on seeing all of the old one
        results.write(path, "new")
        assert reader.read() == "old" * 1000
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]

"""A sweep that first tries the best settings of an earlier study."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from apps import CONFIG, App, Ended
from optuna.distributions import CategoricalDistribution, FloatDistribution
from planted import plant, trial

# By the study's name, as the application's own sweeps are.
FOLDERS = "hydra.sweep.dir=sweeps/${hydra.sweeper.study_name}"
X = FloatDistribution(-1.0, 1.0)
KIND = CategoricalDistribution(["a", "b"])
DRY = "hydra.sweeper.dry_run=true"


def best_of(study: str, best: int) -> str:
    return f"hydra.sweeper.enqueue=[{{study: {study}, best: {best}}}]"


def named(name: str) -> tuple[str, str]:
    return FOLDERS, f"hydra.sweeper.study_name={name}"


def tried(done: Ended, name: str, folder: str = "*") -> list[float]:
    """The values of x in the order that they were tried in."""
    return [trial.params["x"] for trial in done.study(name, folder).trials]


def earlier(
    folder: Path, *xs: float, key: str = "", direction: str = "minimize", **more: object
) -> Path:
    """A finished sweep of one stratum in which x was its own value."""
    space = {"x": X, "kind": KIND, "z": X}
    trials = [trial(x, space=space, x=x, minute=i, **more) for i, x in enumerate(xs)]
    return plant(folder, {key: trials}, [direction])


@pytest.fixture
def sweeps(tmp_path: Path) -> Path:
    """Where the sweeps' folders are."""
    return tmp_path / "sweeps"


def test_second_sweep_starts_where_the_first_ended(app: Callable[..., App]) -> None:
    task = app("return cfg.x**2")
    first = task(*named("one"))
    best = sorted(tried(first, "one"), key=abs)[:2]
    again = (*named("two"), best_of("one", 2), "hydra.sweeper.n_trials=3")
    second = task(*again, DRY)
    assert second.code == 0, second.err
    assert "  first: the best 2 of study one\n" in second.out
    assert not (second.folder / "sweeps" / "two").exists()
    second = task(*again)
    assert second.code == 0, second.err
    assert tried(second, "two", "two")[:2] == best
    assert second.study("two", "two").best_value == first.study("one", "one").best_value


def test_resuming_enqueues_nothing_again_though_the_earlier_study_has_changed(
    app: Callable[..., App], sweeps: Path
) -> None:
    """Nor does it need the earlier study."""
    folder = earlier(sweeps / "one", 0.5, 0.25, 0.75)
    task = app("return cfg.x")
    again = (*named("two"), best_of("one", 2))
    assert tried(task(*again, "hydra.sweeper.n_trials=3"), "two")[:2] == [0.25, 0.5]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    earlier(folder, 0.1, 0.2)
    done = task(*again, "hydra.sweeper.n_trials=5")
    assert done.code == 0, done.err
    assert "first: the best 2 of study one, taken when this sweep began" in done.out
    xs = tried(done, "two")
    assert (len(xs), len(set(xs))) == (5, 5)
    assert not {0.1, 0.2} & set(xs)


def test_interrupted_sweep_goes_on_with_what_is_still_to_try(
    app: Callable[..., App], sweeps: Path
) -> None:
    earlier(sweeps / "one", 0.5, 0.25, 0.75)
    task = app("return cfg.x")
    again = (*named("two"), best_of("one", 3))
    task(*again, "hydra.sweeper.n_trials=1")
    assert tried(task(*again, "hydra.sweeper.n_trials=4"), "two")[:3] == [0.25, 0.5, 0.75]


def test_settings_are_tried_once_and_beside_those_that_are_listed(
    app: Callable[..., App], sweeps: Path
) -> None:
    earlier(sweeps / "one", 0.5, 0.25, 0.25, 0.5, 0.75)
    given = "hydra.sweeper.enqueue=[{x: 0.5}, {study: one, best: 3}]"
    done = app("return cfg.x")(*named("two"), given)
    assert done.code == 0, done.err
    assert tried(done, "two")[:3] == [0.5, 0.25, 0.75]
    assert len(tried(done, "two")) == 4
    assert (
        "  first: 1 listed in hydra.sweeper.enqueue\n  first: the best 3 of study one\n" in done.out
    )


def test_best_are_complete_trials_in_the_studys_direction(
    app: Callable[..., App], sweeps: Path
) -> None:
    folder = earlier(sweeps / "one", 0.5, 0.25, 0.75, direction="maximize")
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal"))
    study = optuna.load_study(study_name="one", storage=optuna.storages.JournalStorage(backend))
    pruned = optuna.trial.TrialState.PRUNED
    study.add_trial(trial(0.9, state=pruned, reports=[0.9], space={"x": X}, x=0.9))
    task = app("return cfg.x")
    up = "hydra.sweeper.direction=maximize"
    assert tried(task(*named("two"), best_of("one", 2), up), "two")[:2] == [0.75, 0.5]
    done = task(*named("three"), best_of("one", 2))
    assert done.code == 1
    assert done.err.strip() == (
        "Error: hydra.sweeper.enqueue={study: one, best: 2}: study one was to maximize, and this "
        "sweep is to minimize"
    )


def test_what_does_not_fit_the_space_is_told(app: Callable[..., App], sweeps: Path) -> None:
    earlier(sweeps / "one", 0.5, -0.75, 0.25, z=0.5)
    narrow = "x=interval(0.0,1.0)"
    done = app("return cfg.x")(*named("two"), best_of("one", 3), narrow)
    assert done.code == 0, done.err
    assert tried(done, "two")[:2] == [0.25, 0.5]
    assert (
        "  first: 2 of the best 3 of study one\n"
        "    left out, as it is not searched here: z\n"
        "    not taken, as it is not in the space: x=-0.75 of trial 001\n"
    ) in done.out


def test_each_stratum_has_the_best_of_its_own(app: Callable[..., App], sweeps: Path) -> None:
    some = {
        f"/{kind}": [trial(x, space={"x": X}, x=x, minute=i) for i, x in enumerate(xs)]
        for kind, xs in {"a": (0.5, 0.25, 0.75), "c": (0.1, 0.2)}.items()
    }
    plant(sweeps / "one", some, ["minimize"], {"stratify": "kind"})
    strata = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind")
    done = app("return cfg.x")(
        *named("two"), *strata, best_of("one", 2), "hydra.sweeper.n_trials=6"
    )
    assert done.code == 0, done.err
    assert tried(done, "two/a")[:2] == [0.25, 0.5]
    assert not {0.1, 0.2, 0.25, 0.5} & set(tried(done, "two/b"))
    assert "  first: the best 2 of each kind of study one: a 2, b 0\n" in done.out


def test_strata_and_a_searched_choice_stand_for_each_other(app: Callable[..., App]) -> None:
    """As does the one value of a sweep that tries no other."""
    task = app("return cfg.x + (cfg.kind == 'b')")
    kinds = ("kind=choice(a,b)", "hydra.sweeper.n_trials=8")
    parted = (*kinds, "hydra.sweeper.stratify=kind")
    enqueue = best_of("one", 1)
    one = task(*named("one"), *parted)
    best = {kind: min(tried(one, f"one/{kind}", "one")) for kind in "ab"}
    whole = task(*named("two"), *kinds, enqueue).study("two", "two").trials[0]
    assert whole.params == {"x": best["a"], "kind": "a"}
    only_b = task(*named("three"), "kind=b", enqueue)
    assert tried(only_b, "three", "three")[0] == best["b"]
    again = task(*named("four"), *parted, best_of("two", 1))
    x = {kind: tried(again, f"four/{kind}", "four")[0] for kind in "ab"}
    of_two = task(*named("two"), *kinds).study("two", "two").trials
    for kind in "ab":
        assert x[kind] == min(t.params["x"] for t in of_two if t.params["kind"] == kind)


def test_study_is_found_in_the_same_storage_or_by_its_folder(
    app: Callable[..., App], tmp_path: Path
) -> None:
    task = app("return cfg.x")
    shared = "hydra.sweeper.storage=sqlite:///all.db"
    first = task(*named("one"), shared)
    storage = f"sqlite:///{tmp_path}/all.db"
    best = min(optuna.load_study(study_name="one", storage=storage).trials, key=lambda t: t.value)
    for name, enqueue, where in (
        ("two", best_of("one", 1), shared),
        ("three", best_of("sweeps/one", 1), "seed=0"),
    ):
        done = task(*named(name), enqueue, where)
        assert done.code == 0, done.err
        kept = storage if where == shared else f"sqlite:///{tmp_path}/sweeps/three/study.db"
        begun = optuna.load_study(study_name=name, storage=kept).trials[0]
        assert begun.params == best.params
    assert first.code == 0


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{study: none, best: 2}", "beside its folder; there are: first, one. Else"),
        ("{study: two, best: 2}", "it is this study"),
        ("{study: one, best: 0}", "best must be 1 or more"),
        ("{study: one}", "best must be 1 or more"),
        ("{study: nowhere/else, best: 1}", "there is no sweep to read"),
    ],
)
def test_study_that_cannot_be_taken_from_is_refused(
    app: Callable[..., App], sweeps: Path, entry: str, told: str
) -> None:
    for name in ("one", "first"):
        earlier(sweeps / name, 0.5)
    (sweeps / "empty").mkdir()
    done = app("return cfg.x")(*named("two"), f"hydra.sweeper.enqueue=[{entry}]")
    assert done.code == 1
    assert told in done.err
    assert done.err.startswith("Error: ")
    assert not (sweeps / "two").exists()


def test_study_without_a_complete_trial_gives_nothing(
    app: Callable[..., App], sweeps: Path
) -> None:
    plant(sweeps / "one", {"": [trial(state=optuna.trial.TrialState.FAIL)]}, ["minimize"])
    done = app("return cfg.x")(*named("two"), best_of("one", 2))
    assert done.code == 0, done.err
    assert "  first: 0 of the best 2 of study one\n" in done.out


def test_several_objectives_give_the_front(app: Callable[..., App], sweeps: Path) -> None:
    points = [(0.5, 0.5), (0.9, 0.9), (0.1, 0.8)]
    trials = [trial(*point, space={"x": X}, x=point[0], minute=i) for i, point in enumerate(points)]
    plant(sweeps / "one", {"": trials}, ["minimize", "minimize"], {"objective": None})
    done = app("return cfg.x, 1 - cfg.x")(
        *named("two"), best_of("one", 3), "hydra.sweeper.direction=[minimize,minimize]"
    )
    assert done.code == 0, done.err
    assert sorted(tried(done, "two")[:2]) == [0.1, 0.5]
    assert 0.9 not in tried(done, "two")


def test_app_may_search_settings_of_these_names(app: Callable[..., App]) -> None:
    done = app("return cfg.best", config_of("study", "best"))(
        "study=interval(0.0,1.0)",
        "best=interval(0.0,9.0)",
        "hydra.sweeper.enqueue=[{study: 0.5, best: 5}]",
    )
    assert done.code == 0, done.err
    assert done.trials()[0].params == {"study": 0.5, "best": 5.0, "x": done.trials()[0].params["x"]}


def config_of(*names: str) -> str:
    return CONFIG + "".join(f"{name}: 0.0\n" for name in names)

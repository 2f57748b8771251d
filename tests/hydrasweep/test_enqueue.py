"""Sweeps that first try the best settings of an earlier study."""

import shutil

import pytest
from apps import CONFIG
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from planted import plant, trial

X = FloatDistribution(-1.0, 1.0)
SPACE = {"x": X, "z": X, "kind": CategoricalDistribution(["a", "b"])}


def best_of(study, best):
    return f"hydra.sweeper.enqueue=[{{study: {study}, best: {best}}}]"


def named(name):
    """Settings of a sweep with that name in a folder of that name."""
    return "hydra.sweep.dir=sweeps/${hydra.sweeper.study_name}", f"hydra.sweeper.study_name={name}"


def tried(done, name="two", folder="two"):
    """The values of x in the order of the trials."""
    return [trial.params["x"] for trial in done.study(name, folder).trials]


def lines(done):
    """What the plan says of the settings to try first."""
    plan = done.out.splitlines()
    first = next(i for i, line in enumerate(plan) if line.startswith("  first: "))
    return [line for line in plan[first:] if line.startswith(("  first: ", "    "))]


def trials_of(*xs, **more):
    """Trials whose value is their x."""
    return [trial(x, space=SPACE, x=x, minute=i, **more) for i, x in enumerate(xs)]


@pytest.fixture
def sweeps(tmp_path):
    """The folder with the folders of sweeps."""
    return tmp_path / "sweeps"


def test_second_sweep_starts_with_the_best_of_the_first(app):
    task = app("return cfg.x**2")
    first = task(*named("one"))
    best = sorted(tried(first, "one", "one"), key=abs)[:2]
    second = task(*named("two"), best_of("one", 2), "hydra.sweeper.n_trials=3", code=0)
    assert lines(second) == ["  first: the best 2 of study one"]
    assert tried(second)[:2] == best
    assert second.study("two", "two").best_value == first.study("one", "one").best_value


def test_resumed_sweep_continues_with_the_settings_that_it_began_with(app, sweeps):
    """Also when the earlier study has changed since."""
    folder = plant(sweeps / "one", {"": trials_of(0.5, 0.25, 0.75)}, ["minimize"])
    task = app("return cfg.x")
    overrides = (*named("two"), best_of("one", 3))
    assert tried(task(*overrides, "hydra.sweeper.n_trials=1")) == [0.25]
    shutil.rmtree(folder)
    plant(folder, {"": trials_of(0.1, 0.2)}, ["minimize"])
    done = task(*overrides, "hydra.sweeper.n_trials=5", code=0)
    assert "the best 3 of study one" in lines(done)[0]
    xs = tried(done)
    assert xs[:3] == [0.25, 0.5, 0.75]
    assert len(set(xs)) == 5
    assert not {0.1, 0.2} & set(xs)


def test_each_setting_is_tried_once_if_it_fits_the_space(app, sweeps):
    plant(sweeps / "one", {"": trials_of(0.5, -0.75, 0.25, 0.25, 0.5, z=0.5)}, ["minimize"])
    done = app("return cfg.x")(
        *named("two"),
        "hydra.sweeper.enqueue=[{x: 0.5}, {study: sweeps/one, best: 3}]",
        "x=interval(0.0,1.0)",
        code=0,
    )
    assert tried(done)[:2] == [0.5, 0.25]
    assert len(set(tried(done))) == 4
    listed, taken, left_out, misfit = lines(done)
    assert "1 listed in hydra.sweeper.enqueue" in listed
    assert "2 of the best 3 of study sweeps/one" in taken
    assert left_out.endswith(": z")
    assert misfit.endswith(": x=-0.75 of trial 001")


def test_best_are_complete_trials_in_the_direction_of_the_study(app, sweeps):
    pruned = trial(0.9, state=TrialState.PRUNED, reports=[0.9], space=SPACE, x=0.9)
    plant(sweeps / "one", {"": [*trials_of(0.5, 0.25, 0.75), pruned]}, ["maximize"])
    task = app("return cfg.x")
    done = task(*named("two"), best_of("one", 2), "hydra.sweeper.direction=maximize")
    assert tried(done)[:2] == [0.75, 0.5]
    done = task(*named("three"), best_of("one", 2), in_process=True, code=1)
    for text in ("hydra.sweeper.enqueue={study: one, best: 2}", "maximize", "minimize"):
        assert text in done.err


def test_each_stratum_begins_with_the_best_of_its_own(app, sweeps):
    studies = {"/a": trials_of(0.5, 0.25, 0.75), "/c": trials_of(0.1, 0.2)}
    plant(sweeps / "one", studies, ["minimize"], {"stratify": "kind"})
    strata = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind", "hydra.sweeper.n_trials=6")
    done = app("return cfg.x")(*named("two"), *strata, best_of("one", 2), code=0)
    assert tried(done, "two/a")[:2] == [0.25, 0.5]
    assert not {0.1, 0.2, 0.25, 0.5} & set(tried(done, "two/b"))
    assert lines(done)[0].endswith("a 2, b 0")


def test_strata_and_choices_replace_each_other(app, sweeps):
    """A sweep with strata gives settings to one that searches the choice, or has one of its
    values, and the other way round."""
    choice = [*trials_of(0.5, 0.25, kind="a"), *trials_of(0.75, 0.6, kind="b")]
    plant(sweeps / "choice", {"": choice}, ["minimize"])
    task, few = app("return cfg.x"), "hydra.sweeper.n_trials=2"
    strata = ("kind=choice(a,b)", "hydra.sweeper.stratify=kind")
    one = task(*named("one"), *strata)
    best = {kind: min(tried(one, f"one/{kind}", "one")) for kind in "ab"}
    done = task(*named("two"), "kind=choice(a,b)", best_of("one", 1), few)
    kind = min(best, key=lambda kind: best[kind])
    assert done.study("two", "two").trials[0].params == {"x": best[kind], "kind": kind}
    done = task(*named("three"), "kind=b", best_of("one", 1), few)
    assert tried(done, "three", "three")[0] == best["b"]
    done = task(*named("four"), *strata, best_of("choice", 1), few)
    assert [tried(done, f"four/{kind}", "four") for kind in "ab"] == [[0.25], [0.6]]


def test_study_is_found_in_the_storage_of_the_sweep(app):
    task = app("return cfg.x")
    shared = "hydra.sweeper.storage.log_storage.file_path=all/study.journal"
    task(*named("one"), shared)
    done = task(*named("two"), best_of("one", 1), shared, code=0)
    assert tried(done, folder="all")[0] == min(tried(done, "one", "all"))
    # The folder of a sweep names its storage, too.
    done = task(*named("three"), best_of("sweeps/one", 1))
    assert tried(done, "three", "three")[0] == min(tried(done, "one", "all"))


@pytest.mark.parametrize(
    ("entry", "texts"),
    [
        ("{study: none, best: 2}", ["study: none", "first, one"]),
        ("{study: two, best: 2}", ["study: two"]),
        ("{study: one, best: 0}", ["study: one, best: 0"]),
        ("{study: one}", ["study: one", "best"]),
        ("{study: nowhere/else, best: 1}", ["nowhere/else"]),
    ],
)
def test_study_that_cannot_be_used_is_refused(app, sweeps, entry, texts):
    for name in ("one", "first"):
        plant(sweeps / name, {"": trials_of(0.5)}, ["minimize"])
    (sweeps / "empty").mkdir()
    override = f"hydra.sweeper.enqueue=[{entry}]"
    done = app("return cfg.x")(*named("two"), override, in_process=True, code=1)
    for text in texts:
        assert text in done.err
    assert not (sweeps / "two").exists()


def test_study_without_a_complete_trial_gives_nothing(app, sweeps):
    plant(sweeps / "one", {"": [trial(state=TrialState.FAIL)]}, ["minimize"])
    overrides = (*named("two"), best_of("one", 2), "hydra.sweeper.dry_run=true")
    done = app("return cfg.x")(*overrides, in_process=True, code=0)
    assert "0 of the best 2 of study one" in lines(done)[0]


def test_several_objectives_give_the_pareto_front(app, sweeps):
    points = [(0.5, 0.5), (0.9, 0.9), (0.1, 0.8)]
    trials = [trial(*point, space=SPACE, x=point[0], minute=i) for i, point in enumerate(points)]
    directions = ["minimize", "minimize"]
    plant(sweeps / "one", {"": trials}, directions, {"objective": None})
    done = app("return cfg.x, 1 - cfg.x")(
        *named("two"), best_of("one", 3), "hydra.sweeper.direction=[minimize,minimize]", code=0
    )
    assert sorted(tried(done)[:2]) == [0.1, 0.5]
    assert 0.9 not in tried(done)


def test_app_may_search_settings_named_study_and_best(app):
    done = app("return cfg.best", CONFIG + "study: 0.0\nbest: 0.0\n")(
        "study=interval(0.0,1.0)",
        "best=interval(0.0,9.0)",
        "hydra.sweeper.enqueue=[{study: 0.5, best: 5}]",
        "hydra.sweeper.n_trials=1",
        code=0,
    )
    (first,) = done.trials()
    assert first.params == {"study": 0.5, "best": 5.0, "x": first.params["x"]}

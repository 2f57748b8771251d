"""Settings that can't work are refused before anything is spent on them."""

from collections.abc import Callable
from typing import Any

import pytest
from apps import CONFIG, App
from omegaconf import OmegaConf

from hydrasweep import settings
from hydrasweep.errors import UserError


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hydra.sweeper.study_name=../x", "study_name=../x: must be"),
        ("hydra.sweeper.study_name='\"'", 'study_name=": must be'),
        ("hydra.sweeper.enqueue=[{x: 5}]", "hydra.sweeper.enqueue={'x': 5}: x=5 is not in"),
        ("hydra.n_trials=3", "n_trials"),
        (
            "+hydra.sweeper.n_trails=3",
            "n_trails: is no setting of the sweep; did you mean n_trials?",
        ),
        ("hydra.sweeper.max_steps=0", "hydra.sweeper.max_steps=0: must be"),
        ("hydra.sweeper.n_trails=3", "n_trails"),
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction=up: must be"),
        ("hydra.sweeper.direction=[minimize,up]", "hydra.sweeper.direction=up: must be"),
        ("hydra.sweeper.n_workers=0", "hydra.sweeper.n_workers=0: must be"),
        ("hydra.sweeper.n_jobs=-1", "hydra.sweeper.n_jobs=-1: must be"),
        ("hydra.sweeper.n_trials=-1", "hydra.sweeper.n_trials=-1: must be"),
        ("hydra.sweeper.stratify=kind", "hydra.sweeper.stratify=kind: must be"),
        ("hydra/sweeper/sampler=tpee", "tpee"),
        ("hydra/sweeper/pruner=medean", "medean"),
        ("+hydra.sweeper.sampler.sed=1", "hydra.sweeper.sampler: "),
        ("z=interval(0,1)", "z"),
        ("x=tag(log,interval(-1,1))", "x=tag(log,interval(-1,1)): can't be searched"),
        ("hydra.sweeper.pruner._target_=optuna.pruners.NoSuchPruner", "NoSuchPruner"),
        ("hydra.sweeper.check=app.no_such", "no_such"),
        ("hydra.sweeper.calibrate=app.no_such", "hydra.sweeper.calibrate: "),
    ],
)
def test_wrong_setting_is_refused_before_anything_runs(
    app: Callable[..., App], override: str, words: str
) -> None:
    done = app("return cfg.x")(override, "hydra/launcher=joblib")
    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err
    assert not (done.folder / "sweep").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", '"', "..", ".a", "", "-a", "a" * 61])
def test_name_that_cannot_name_a_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.study_name=.*: must be up to 60"):
        settings.study_name(name)


def test_app_without_the_setting_for_seeds_is_told_which_it_might_be(
    app: Callable[..., App],
) -> None:
    task = app("return cfg.x", CONFIG.replace("\nseed:", "\nrng:") + "width: 2\n")
    done = task("hydra/sweeper/confirm=two_seeds")
    assert done.code == 1
    assert "hydra.sweeper.confirm.seed=seed: must name the setting of the app that " in done.err
    assert "those at its top are rng, width" in done.err


def test_study_has_its_name_or_the_time() -> None:
    for name in ("s", "a.b-c_d+e", "ünï", "2026-01-02", "a" * 60):
        assert settings.study_name(name) == name
    assert settings.study_name(7) == "7"
    assert len(settings.study_name(None)) == len("2026-01-02_03-04-05")


def test_objectives_have_the_names_that_are_given_where_these_fit() -> None:
    def names(**given: Any) -> list[str]:
        return settings.objectives(OmegaConf.create({"objective": None, **given}))

    two = ["minimize", "maximize"]
    assert names(direction="minimize") == ["value"]
    assert names(direction="minimize", objective="val/loss") == ["val/loss"]
    assert names(direction=two) == ["value 0", "value 1"]
    assert names(direction=two, objective=["loss", "accuracy"]) == ["loss", "accuracy"]
    assert names(direction=two, objective="loss") == ["value 0", "value 1"]


JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``workers(JOBLIB, n_jobs=3)`` counts the workers on a machine of eight cores."""
    monkeypatch.setattr(settings, "count_cores", lambda: 8)

    def counted(
        launcher: str, *, n_workers: int | None = None, n_jobs: int | None = None, gpus: str = ""
    ) -> int:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        settings.gpus.cache_clear()
        chosen = OmegaConf.create({"n_workers": n_workers, "n_jobs": n_jobs})
        config = OmegaConf.create({"hydra": {"launcher": {"_target_": launcher}}})
        return settings.count_workers(chosen, config)

    yield counted  # type: ignore[misc]
    settings.gpus.cache_clear()


def test_workers_are_one_for_each_gpu_or_core_unless_asked_for(
    workers: Callable[..., int],
) -> None:
    assert workers(BASIC, n_workers=5) == 1
    assert workers(JOBLIB, n_workers=5, n_jobs=3, gpus="0,1") == 5
    assert workers(JOBLIB, n_jobs=3, gpus="0,1") == 3
    assert workers(JOBLIB, gpus="0,1") == 2
    assert workers(JOBLIB, gpus="-1") == 8
    assert workers(JOBLIB) == 8


CHECK = """
def check(cfg):
    from hydra.core.hydra_config import HydraConfig
    assert "hydra" not in cfg
    assert HydraConfig.get().runtime.output_dir.endswith("/sweep")
    trial = hydrasweep.trial()
    print("tries", cfg.x, cfg.kind, cfg.y, trial.sweep, trial.phase, trial.name)
    if cfg.y > 1:
        raise ValueError("y is too large")
    if cfg.y < 0:
        raise hydrasweep.UserError("y must not be negative")
    return 90.0 if cfg.kind == "a" else 30
"""


def test_check_tries_the_corners_of_each_stratum_and_estimates_the_time(
    app: Callable[..., App],
) -> None:
    task = app("return cfg.x", more=CHECK)
    strata = ("hydra.sweeper.check=app.check", "kind=choice(a,b)", "hydra.sweeper.stratify=kind")
    fresh = ("hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.final=['y=0.5']")
    done = task(*strata, *fresh, "hydra.sweeper.dry_run=true")
    assert done.code == 0, done.err
    tried = [line for line in done.out.splitlines() if line.startswith("tries")]
    assert tried == [
        *(f"tries {x} {kind} 0.0 s search check" for kind in "ab" for x in (1.0, -1.0)),
        "tries 1.0 b 0.5 s final check",
    ]
    assert "a whole trial: a 2 min, b 30 s; all of them unpruned: 4 min" in done.out
    assert "app.check has tried it" in done.out
    for override, told in (
        ("y=-1", "Error: y must not be negative\nThis was found in trying: y=-1 kind=a x=1.0"),
        ("y=2", "Error: ValueError: y is too large\nThis was found in trying: y=2 kind=a x=1.0"),
    ):
        done = task(*strata, override)
        assert done.code == 1
        assert done.err.strip() == told
        assert not (done.folder / "sweep").exists()


CALIBRATE = """
def calibrate(configs):
    with open(os.path.join(os.path.dirname(__file__), "calls"), "a") as file:
        print(configs[0].kind, *(cfg.x for cfg in configs), file=file)
        return {"y": file.tell(), "layers": {"a.b": "It's fast", "c": None}}
"""


def test_settings_that_suit_the_machine_are_those_of_the_whole_study(
    app: Callable[..., App],
) -> None:
    own = CONFIG + "layers: null"
    task = app("return cfg.x + len(cfg.layers)", own, CALIBRATE)
    strata = ("hydra.sweeper.calibrate=app.calibrate", "kind=choice(a,b)", "seed=1")
    given = (*strata, "hydra.sweeper.stratify=kind", "hydra/sweeper/confirm=two_seeds")
    for n_trials in (4, 6):
        done = task(*given, f"hydra.sweeper.n_trials={n_trials}")
        assert done.code == 0, done.err
        assert (done.folder / "calls").read_text().splitlines() == ["a -1.0 1.0", "b -1.0 1.0"]
    sweep = done.folder / "sweep"
    files = [*sweep.glob("*/.hydra/config.yaml"), *sweep.glob("[cf]*/*/.hydra/config.yaml")]
    assert len(files) >= 6 + 4 + 4
    layers = {"a.b": "It's fast", "c": None}
    recipes = [
        OmegaConf.merge(OmegaConf.create(own), OmegaConf.load(each))
        for each in sweep.glob("best/*.yaml")
    ]
    for config in [*map(OmegaConf.load, files), *recipes]:
        assert (config.y, config.layers) == ({"a": 11, "b": 22}[config.kind], layers)


def test_missing_package_is_told_before_anything_runs(app: Callable[..., App]) -> None:
    done = app("return cfg.x", more="sys.modules['mlflow'] = None")("hydra.sweeper.mlflow=true")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert 'python -m pip install "hydrasweep[mlflow]"' in done.err
    assert not (done.folder / "sweep").exists()

"""Settings that cannot work are refused before anything is spent on them."""

import pytest
from apps import CONFIG
from omegaconf import OmegaConf

from hydrasweep import settings
from hydrasweep.errors import UserError


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("hydra.sweeper.study_name=../x", ["hydra.sweeper.study_name=../x"]),
        ("hydra.sweeper.study_name='\"'", ['hydra.sweeper.study_name="']),
        ("hydra.sweeper.enqueue=[{x: 5}]", ["hydra.sweeper.enqueue={'x': 5}", "x=5"]),
        ("hydra.n_trials=3", ["n_trials"]),
        ("+hydra.sweeper.n_trails=3", ["n_trails", "n_trials"]),
        ("hydra.sweeper.n_trails=3", ["n_trails"]),
        ("hydra.sweeper.max_steps=0", ["hydra.sweeper.max_steps=0"]),
        ("hydra.sweeper.direction=up", ["hydra.sweeper.direction=up", "minimize", "maximize"]),
        ("hydra.sweeper.direction=[minimize,up]", ["hydra.sweeper.direction=up"]),
        ("hydra.sweeper.n_workers=0", ["hydra.sweeper.n_workers=0"]),
        ("hydra.sweeper.n_jobs=-1", ["hydra.sweeper.n_jobs=-1"]),
        ("hydra.sweeper.n_workers=all", ["hydra.sweeper.n_workers=all", "auto"]),
        ("hydra.sweeper.trials_per_worker=0", ["hydra.sweeper.trials_per_worker=0"]),
        ("hydra.sweeper.grace_period=-1", ["hydra.sweeper.grace_period=-1"]),
        ("hydra.sweeper.n_trials=-1", ["hydra.sweeper.n_trials=-1"]),
        ("hydra.sweeper.stratify=kind", ["hydra.sweeper.stratify=kind"]),
        ("hydra.sweeper.pruner=median", ["hydra/sweeper/pruner=median"]),
        ("hydra/sweeper/sampler=tpee", ["tpee"]),
        ("hydra/sweeper/pruner=medean", ["medean"]),
        ("+hydra.sweeper.sampler.sed=1", ["hydra.sweeper.sampler", "sed"]),
        ("z=interval(0,1)", ["z"]),
        ("x=tag(log,interval(-1,1))", ["x=tag(log,interval(-1,1))"]),
        ("hydra.sweeper.pruner._target_=optuna.pruners.NoSuchPruner", ["NoSuchPruner"]),
        ("hydra.sweeper.check=math.no_such", ["no_such"]),
        ("hydra.sweeper.calibrate=math.no_such", ["hydra.sweeper.calibrate", "no_such"]),
    ],
)
def test_wrong_setting_is_refused_before_anything_runs(app, override, texts):
    done = app("return cfg.x")(override, in_process=True, code=1)
    for text in texts:
        assert text in done.err
    assert "Traceback" not in done.err
    assert not (done.folder / "sweep").exists()


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        (["hydra.launcher.backend=multiprocessing"], ["hydra/launcher=basic", "n_workers"]),
        (["hydra.launcher.n_jobs=3", "hydra.sweeper.n_workers=2"], ["n_jobs=3", "n_workers (2)"]),
        (["hydra.launcher.n_jobs=-2"], ["n_jobs=-2"]),
    ],
)
def test_settings_of_joblib_that_do_not_fit_are_refused(app, overrides, texts):
    done = app("return cfg.x")("hydra/launcher=joblib", *overrides, in_process=True, code=1)
    for text in texts:
        assert text in done.err


def test_refusal_ends_the_command_with_one_message(app):
    task = app("return cfg.x", more="sys.modules['mlflow'] = None")
    for override, text in (
        ("hydra.sweeper.n_trials=-1", "hydra.sweeper.n_trials=-1"),
        ("hydra.sweeper.check=app.no_such", "no_such"),
        ("hydra/sweeper/pruner=medean", "medean"),
        ("hydra.sweeper.mlflow=true", 'python -m pip install "hydrasweep[mlflow]"'),
    ):
        done = task(override, "hydra/launcher=joblib", code=1)
        assert text in done.err
        assert "Traceback" not in done.out + done.err
        assert not (done.folder / "sweep").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "a b", '"', "..", ".a", "", "-a", "a" * 61])
def test_name_that_cannot_name_a_folder_is_refused(name):
    with pytest.raises(UserError) as error:
        settings.study_name(name)
    assert str(error.value).startswith(f"hydra.sweeper.study_name={name}: ")


def test_study_has_its_name_or_the_time():
    for name in ("s", "a.b-c_d+e", "ünï", "2026-01-02", "a" * 60):
        assert settings.study_name(name) == name
    assert settings.study_name(7) == "7"
    assert len(settings.study_name(None)) == len("2026-01-02_03-04-05")


def test_missing_setting_for_the_seed_is_refused_with_the_possible_ones(app):
    task = app("return cfg.x", CONFIG.replace("\nseed:", "\nrng:") + "width: 2\n")
    done = task("hydra/sweeper/confirm=two_seeds", in_process=True, code=1)
    for text in ("hydra.sweeper.confirm.seed=seed", "rng", "width"):
        assert text in done.err


def test_objectives_have_the_given_names_if_these_fit_the_directions():
    def names(**given):
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
def workers(monkeypatch):
    """``workers(JOBLIB, n_jobs=3)`` counts the workers on a machine of eight cores."""
    monkeypatch.setattr(settings, "count_cores", lambda: 8)

    def counted(launcher, *, n_workers=None, n_jobs=None, gpus="", launcher_n_jobs=-1):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        settings.gpus.cache_clear()
        chosen = OmegaConf.create({"n_workers": n_workers, "n_jobs": n_jobs})
        node = {"_target_": launcher} | ({"n_jobs": launcher_n_jobs} if launcher == JOBLIB else {})
        config = OmegaConf.create({"hydra": {"launcher": node}})
        return settings.count_workers(chosen, config)

    yield counted
    settings.gpus.cache_clear()


def test_there_is_a_worker_for_each_gpu_or_core_unless_a_number_is_set(
    workers,
):
    assert workers(BASIC) == workers(BASIC, gpus="0,1") == 1
    assert workers(BASIC, n_workers=5) == workers(BASIC, n_jobs=5) == 5
    assert workers(BASIC, n_workers="auto") == 8
    assert workers(BASIC, n_workers="3") == 3  # of ${oc.env:SLURM_CPUS_PER_TASK}
    assert workers(BASIC, n_workers="auto", gpus="0,1") == 2
    assert workers(JOBLIB, launcher_n_jobs=3) == 3
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


def test_check_runs_at_the_corners_of_each_stratum_and_estimates_the_time(app):
    task = app("return cfg.x", more=CHECK)
    strata = ("hydra.sweeper.check=app.check", "kind=choice(a,b)", "hydra.sweeper.stratify=kind")
    confirm = ("hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.final=['y=0.5']")
    done = task(*strata, *confirm, "hydra.sweeper.dry_run=true", code=0)
    assert [line for line in done.out.splitlines() if line.startswith("tries")] == [
        *(f"tries {x} {kind} 0.0 s search check" for kind in "ab" for x in (1.0, -1.0)),
        "tries 1.0 b 0.5 s final check",
    ]
    for text in ("a 2 min", "b 30 s", "4 min", "app.check"):
        assert text in done.out
    for override, message in (
        ("y=-1", "y must not be negative"),
        ("y=2", "ValueError: y is too large"),
    ):
        done = task(*strata, override, code=1)
        assert done.err.startswith(f"Error: {message}\n")
        assert f"{override} kind=a x=1.0" in done.err
        assert not (done.folder / "sweep").exists()


CALIBRATE = """
def calibrate(configs):
    with open(os.path.join(os.path.dirname(__file__), "calls"), "a") as file:
        print(configs[0].kind, *(cfg.x for cfg in configs), file=file)
        return {"y": file.tell(), "layers": {"a.b": "It's fast", "c": None}}
"""


def test_calibrated_settings_are_those_of_the_whole_study(app):
    own = CONFIG + "layers: null"
    task = app("return cfg.x + len(cfg.layers)", own, CALIBRATE)
    overrides = (
        "hydra.sweeper.calibrate=app.calibrate",
        "kind=choice(a,b)",
        "hydra.sweeper.stratify=kind",
        "hydra/sweeper/confirm=two_seeds",
        "hydra.sweeper.confirm.n_seeds=1",
        "hydra.sweeper.confirm.top=1",
        "seed=1",
    )
    for n_trials in (2, 4):
        done = task(*overrides, f"hydra.sweeper.n_trials={n_trials}", code=0)
        assert (done.folder / "calls").read_text().splitlines() == ["a -1.0 1.0", "b -1.0 1.0"]
    sweep = done.folder / "sweep"
    files = [*sweep.glob("*/.hydra/config.yaml"), *sweep.glob("[cf]*/*/.hydra/config.yaml")]
    assert len(files) >= 4 + 2 + 2
    layers = {"a.b": "It's fast", "c": None}
    recipes = [
        OmegaConf.merge(OmegaConf.create(own), OmegaConf.load(each))
        for each in sweep.glob("best/*.yaml")
    ]
    for config in [*map(OmegaConf.load, files), *recipes]:
        assert (config.y, config.layers) == ({"a": 11, "b": 22}[config.kind], layers)

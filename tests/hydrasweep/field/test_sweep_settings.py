"""Settings of the sweep and of the search space that people wrote."""

import importlib.util
import re
import statistics
from itertools import pairwise

import optuna
import pytest
from apps import CONFIG

PLAN = "hydra.sweeper.dry_run=true"
TWO = "hydra.sweeper.n_trials=2"
GROUP = CONFIG.replace("kind: a\n", "").replace("defaults:\n", "defaults:\n  - kind: a\n")
STRATIFIED = "hydra.sweeper.stratify=kind"


# Names


@pytest.mark.parametrize("key", ["hydra.sweeper.study_name", "name"])
def test_study_name_like_a_number_keeps_its_spelling_or_is_refused(app, key):
    """They gave ``id=1_1_1`` and got 111. Hashes of commits such as 12e4567 become infinity.

    Source: github.com/facebookresearch/hydra/issues/1163
    Right: a name that Hydra changes is refused with a hint to quote it.
    """
    by_the_app = CONFIG.replace("study_name: s", "study_name: ${name}") + "name: s\n"
    task = app("return cfg.x", by_the_app if key == "name" else CONFIG)
    for name in ("1.10", "1_1_1", "12e4567", "true"):
        done = task(f"{key}={name}", PLAN, in_process=True, code=1)
        assert f"study_name={name}: " in done.err
        assert f"""'"{name}"'""" in done.err
    for typed, name in (('"1.10"', "1.10"), ("7", "7"), ("20260913", "20260913")):
        done = task(f"{key}={typed}", PLAN, in_process=True, code=0)
        assert done.out.startswith(f"Study {name}: ")


def test_choice_in_a_folder_of_a_group_is_a_stratum(app, tmp_path):
    """They sorted config groups into folders: ``train/loss_fn=bce,dice``, ``model: image/mlpx``.

    Source: github.com/facebookresearch/hydra/issues/1766
    Right: folders and recipes of the stratum are named with ``-``. Two choices with one name for
    their folders are refused. The group may have the name of one of the sweeper's.
    """
    task = app("return cfg.x + cfg.sampler.offset", GROUP.replace("- kind: a", "- sampler: a"))
    (tmp_path / "conf" / "sampler" / "sub").mkdir(parents=True)
    (tmp_path / "conf" / "sampler" / "a.yaml").write_text("offset: 0\n")
    (tmp_path / "conf" / "sampler" / "sub" / "b.yaml").write_text("offset: 10\n")
    stratified = "hydra.sweeper.stratify=sampler"
    done = task("sampler=choice(sub-b,sub/b)", stratified, in_process=True, code=1)
    assert "hydra.sweeper.stratify=null" in done.err
    confirm = ("hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1")
    done = task("sampler=choice(a,sub/b)", stratified, TWO, *confirm, code=0)
    folders = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    assert {"a-000", "sub-b-000", "sub-b-confirm-000", "sub-b-final-000"} <= folders
    values = {row["sampler"]: float(row["value"]) for row in done.table()}
    assert values["a"] < 5 < values["sub/b"]
    assert "override /sampler: sub/b" in (tmp_path / "sweep" / "best" / "sub-b.yaml").read_text()


def test_folders_of_trials_named_by_overrides_are_refused(app):
    """They set ``hydra.sweep.subdir: ${hydra.job.override_dirname}``. Values with a slash or of
    great length make odd folders.

    Sources: github.com/facebookresearch/hydra/issues/3018 and 1384
    """
    subdir, way_out = "${hydra.job.override_dirname}", "${hydra.job.num}"
    task = app("return cfg.x", CONFIG.replace("dir: sweep", f"dir: sweep\n    subdir: {subdir}"))
    for overrides in ((), (f"hydra.sweep.subdir='{subdir}'",)):
        done = task(*overrides, in_process=True, code=1)
        assert f"hydra.sweep.subdir={subdir}" in done.err
        assert way_out in done.err
        assert not (done.folder / "sweep").exists()
    task(f"hydra.sweep.subdir='{way_out}'", PLAN, in_process=True, code=0)


@pytest.mark.parametrize("choice", ["pruner=median", "confirm=two_seeds", "storage=journal"])
def test_config_of_a_group_that_is_chosen_by_a_dot_is_refused(app, choice):
    """They looked for the pruner among the sweeper's settings and gave its name.

    Sources: github.com/facebookresearch/hydra/issues/1954 and 1710
    Right: the message has the override with a slash, which works.
    """
    task = app("return cfg.x")
    done = task(f"hydra.sweeper.{choice}", in_process=True, code=1)
    assert f"hydra/sweeper/{choice}" in done.err
    assert not (done.folder / "sweep").exists()
    task(f"hydra/sweeper/{choice}", PLAN, in_process=True, code=0)


# Samplers, pruners and storages


class Late(optuna.samplers.RandomSampler):
    """A sampler that imports its package when it first needs it, as Optuna's CMA-ES does."""

    n = 0

    def infer_relative_search_space(self, *args):
        del args
        self.n += 1
        if self.n == 2:
            raise ImportError("No module named 'cmaes'")
        return {}


without_cmaes = pytest.mark.skipif(
    importlib.util.find_spec("cmaes") is not None, reason="cmaes is installed"
)


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        (["hydra.sweeper.sampler._target_=builtins.dict"], ["hydra.sweeper.sampler: "]),
        (
            ["hydra.sweeper.sampler._target_=optuna.pruners.MedianPruner"],
            ["hydra.sweeper.sampler: "],
        ),
        (
            ["hydra.sweeper.pruner._target_=optuna.samplers.RandomSampler"],
            ["hydra.sweeper.pruner: "],
        ),
        (
            ["hydra.sweeper.pruner._target_=optuna.pruners.NoSuchPruner"],
            ["hydra.sweeper.pruner: ", "NoSuchPruner"],
        ),
        ([f"hydra.sweeper.sampler._target_={__name__}.Late"], ["hydra.sweeper.sampler: ", "cmaes"]),
        pytest.param(
            ["hydra/sweeper/sampler=cmaes", "y=interval(0,1)"],
            ["hydra.sweeper.sampler: ", "cmaes"],
            marks=without_cmaes,
        ),
    ],
)
def test_sampler_or_pruner_that_cannot_work_is_refused_before_any_trial(app, overrides, texts):
    """They merged the settings of two samplers. Or they chose CMA-ES, whose package was missing,
    and the second trial ended with an ImportError.

    Sources: github.com/hydra-ecosystem/hydra/issues/2003, github.com/optuna/optuna/issues/5868
    """
    done = app("return cfg.x")(*overrides, in_process=True, code=1)
    assert done.err.startswith(f"Error: {texts[0]}")
    assert texts[-1] in done.err
    assert not (done.folder / "sweep").exists()


@pytest.mark.parametrize("url", ["mysql://user@host/db", "mysql+pymysql://user@127.0.0.1:9/db"])
def test_mysql_is_refused_with_the_storages_that_work(app, url):
    """They set the storage to a MySQL database: the run hung, with empty tables.

    Source: github.com/ashleve/lightning-hydra-template/issues/224
    """
    done = app("return cfg.x")(f"hydra.sweeper.storage='{url}'", in_process=True, code=1)
    for text in ("hydra.sweeper.storage: ", "SQLite", "PostgreSQL"):
        assert text in done.err
    assert not (done.folder / "sweep").exists()


# The search space


@pytest.mark.parametrize("where", ["command", "file"])
def test_range_with_one_value_is_refused(app, where):
    """They wrote ``optim.lr: range(1e-4, 1e-3)`` for an interval. The step of a range is 1.

    Source: hydra.cc/docs/advanced/override_grammar/extended/
    Right: the message proposes an interval. A step, a range of one integer or an interval of one
    value are accepted.
    """
    sweep = "range(1e-4, 1e-3)"
    config = CONFIG if where == "command" else CONFIG.replace("interval(-1.0, 1.0)", sweep)
    task = app("return cfg.x", config)
    done = task(*([f"x={sweep}"] if where == "command" else []), in_process=True, code=1)
    assert f"x={sweep}: " in done.err
    assert "interval(" in done.err
    assert not (done.folder / "sweep").exists()
    task("x=range(1e-4, 1e-3, 1e-4)", PLAN, in_process=True, code=0)
    done = task("x=interval(1, 1)", "seed=range(0, 1)", PLAN, in_process=True, code=0)
    assert re.findall(r"^  (x|seed): .*?([\d.]+)$", done.out, re.MULTILINE) == [
        ("x", "1.0"),
        ("seed", "0"),
    ]


def test_searched_setting_that_a_model_lacks_is_taken_out(app, tmp_path):
    """They swept over databases of which one has no user: every key must be in every choice.

    Sources: github.com/facebookresearch/hydra/issues/2888 and 283
    Right: ``~KEY`` takes the setting out of the space for models with and without it. Where Hydra
    refuses that override, as the model without the key is chosen, ``leave_out`` does.
    """
    task = app("return len(cfg.kind)", GROUP.replace("      x: ", "      kind.dropout: "))
    (tmp_path / "conf" / "kind").mkdir()
    (tmp_path / "conf" / "kind" / "a.yaml").write_text("dropout: 0.5\nwidth: 1\n")
    (tmp_path / "conf" / "kind" / "b.yaml").write_text("width: 1\n")
    chosen = ("kind=b", "x=interval(0,1)", TWO, "hydra.sweep.dir=chosen")
    for overrides, text in (
        (("kind=choice(a,b)", STRATIFIED), "kind.dropout"),
        ((*chosen, "~kind.dropout"), "kind.dropout"),
        ((*chosen, "hydra.sweeper.leave_out=[kind.width]"), "leave_out=['kind.width']: "),
    ):
        done = task(*overrides, in_process=True, code=1)
        assert text in done.err
        assert not (tmp_path / "sweep").exists()
    assert "kind.dropout, x" in done.err
    done = task("kind=choice(a,b)", STRATIFIED, TWO, "~kind.dropout", code=0)
    assert {row["kind"]: row["value"] for row in done.table()} == {"a": "2.0", "b": "1.0"}
    left_out = "hydra.sweeper.leave_out=[kind.dropout]"
    done = task(*chosen, left_out, "hydra.sweeper.study_name=chosen", code=0)
    assert re.search(r"^  .*: kind\.dropout$", done.out, re.MULTILINE)
    assert all(t.params.keys() == {"x"} for t in done.study("chosen", "chosen").trials)


def test_searched_seed_cannot_be_confirmed(app):
    """They were advised to sweep with ``seed=interval(0, 10000)``, to average or to find a good
    seed.

    Source: github.com/ashleve/lightning-hydra-template/issues/158
    Right: refused if winners are to be confirmed on fresh seeds, searched otherwise.
    """
    task = app("return cfg.seed")
    for override in ("seed=range(0,9)", "seed=int(interval(0, 10000))", "++seed=range(0,9)"):
        confirm = "hydra/sweeper/confirm=two_seeds"
        done = task(confirm, override, PLAN, in_process=True, code=1)
        assert "hydra.sweeper.confirm.seed=seed: " in done.err
    done = task("seed=range(0,9)", "hydra.sweeper.n_trials=2", code=0)
    assert [trial.value for trial in done.trials()] == [t.params["seed"] for t in done.trials()]


GRID = ("~x", "hydra/sweeper/sampler=grid", "seed=range(0,15)", "kind=range(0,15)")


def test_plan_of_a_large_grid_counts_its_points(app):
    assert "225 trials" in app("return cfg.seed")(*GRID, PLAN, in_process=True, code=0).out


@pytest.mark.slow
def test_large_grid_runs_each_point_once_and_gets_no_slower(app):
    """They searched a grid that Optuna writes out in full before the first trial, and whose trials
    take longer the more of them there are.

    Sources: github.com/optuna/optuna/issues/4726 and 6071
    """
    done = app("return cfg.seed + cfg.kind")(*GRID, code=0)
    trials = done.trials()
    points = {(trial.params["seed"], trial.params["kind"]) for trial in trials}
    assert len(trials) == len(points) == 225
    begun = sorted(trial.datetime_start.timestamp() for trial in trials if trial.datetime_start)
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    assert statistics.median(pauses[-100:]) < 3 * statistics.median(pauses[:100])

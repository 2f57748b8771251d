"""Something changes between two starts of a study, or while it runs."""

import pytest
from apps import CONFIG, SQLITE

ONE, TWO = "hydra.sweeper.n_trials=1", "hydra.sweeper.n_trials=2"
CHOICE, STRATIFIED = "kind=choice(a,b)", "hydra.sweeper.stratify=kind"
NOT_STRATIFIED = "hydra.sweeper.stratify=null"
EPOCHS = CONFIG + "epochs: 1\n"
GROUP = CONFIG.replace("kind: a\n", "").replace("defaults:\n", "defaults:\n  - kind: a\n")


@pytest.fixture
def write_group(tmp_path):
    """``write_group("kind", "ab", 3)`` writes two configs of a group whose epochs are 3."""

    def write(group, names, epochs):
        (tmp_path / "conf" / group).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / "conf" / group / f"{name}.yaml").write_text(f"epochs: {epochs}\n")

    return write


def test_study_does_not_continue_with_another_search(app):
    """They changed the direction, the objective, a range or the choices and kept the study's name.
    Optuna opens the study and silently keeps the old direction.

    Sources: github.com/hydra-ecosystem/hydra/issues/2047,
    github.com/optuna/optuna/issues/2199, 2275 and 2328
    Right: the start is refused with the difference, and nothing that was there changes.
    """
    task = app("return cfg.x")
    rows = task(CHOICE, NOT_STRATIFIED, TWO, code=0).table()
    for override, texts in (
        ("hydra.sweeper.direction=maximize", ["direction: ", "minimize", "maximize"]),
        ("hydra.sweeper.objective=val/loss", ["objective: ", "val/loss"]),
        ("x=interval(-1.0, 0.5)", ["x: ", "-1 to 1", "-1 to 0.5"]),
        ("kind=choice(a,c)", ["kind: "]),
        ("kind=a", ["kind: "]),
        (STRATIFIED, ["kind: "]),
    ):
        done = task(CHOICE, NOT_STRATIFIED, TWO, override, in_process=True, code=1)
        for text in ("study s ", *texts):
            assert text in done.err
    assert task(CHOICE, NOT_STRATIFIED, TWO, code=0).table() == rows


def test_edited_config_is_refused_unless_the_key_may_change(app):
    """They edited a file, or changed the branch, and continued: later jobs use the new values.

    Source: github.com/facebookresearch/hydra/issues/1945
    Right: the start is refused with the key, both values, and a way to allow the change.
    """
    task = app("hydrasweep.record(n=cfg.epochs)\nreturn cfg.x", EPOCHS)
    path = task(ONE, code=0).folder / "conf" / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 3"))
    done = task(TWO, in_process=True, code=1)
    assert "epochs: was 1, now 3" in done.err
    may_change = "hydra.sweeper.may_change=[epochs]"
    assert may_change in done.err
    done = task(TWO, may_change, code=0)
    assert [row["n"] for row in done.table()] == ["1.0", "3.0"]


def test_edited_config_of_any_choice_is_refused(app, write_group):
    """Source: as above. Right: the configs of all choices are compared."""
    task = app("return cfg.x + cfg.kind.epochs", GROUP)
    write_group("kind", "ab", 1)
    task(CHOICE, ONE, code=0)
    write_group("kind", "b", 3)
    done = task(CHOICE, TWO, in_process=True, code=1)
    assert "kind.epochs: was 1, now 1 or 3" in done.err


def test_trials_keep_the_configs_of_the_start(app, write_group):
    """They prepared the next experiment in the same files while jobs were still waiting.

    Source: github.com/facebookresearch/hydra/issues/1945
    Right: all trials have the values that the sweep began with, whichever groups they combine.
    """
    body = """
        from pathlib import Path
        hydrasweep.record(n=cfg.epochs * cfg.kind.epochs * cfg.loss.epochs)
        for path in Path("conf").rglob("*.yaml"):
            path.write_text(path.read_text().replace("epochs: 1", "epochs: 3"))
        return cfg.kind.epochs
    """
    task = app(body, GROUP.replace("  - kind: a\n", "  - kind: a\n  - loss: p\n") + "epochs: 1\n")
    write_group("kind", "abc", 1)
    write_group("loss", "pq", 1)
    done = task(
        "~x",
        "kind=choice(a,b,c)",
        "loss=choice(p,q)",
        "hydra/sweeper/sampler=grid",
        "hydra/sweeper/confirm=two_seeds",
        "hydra.sweeper.confirm.n_seeds=1",
        code=0,
    )
    assert "epochs: 3" in (done.folder / "conf" / "config.yaml").read_text()
    assert len({(row["kind"], row["loss"]) for row in done.table()}) == 6
    assert {row["n"] for row in done.table() + done.table("confirmation")} == {"1.0"}


# The file of the studies


@pytest.mark.parametrize("when", ["before", "between"])
def test_damaged_database_is_named_and_left_as_it_is(app, tmp_path, when):
    """They had the file on a network disk. From some day on each start ended in a traceback.

    Sources: github.com/optuna/optuna/issues/5385 and 815
    Right: one line with the name of the file.
    """
    task, path = app("return cfg.x"), tmp_path / "sweep" / "study.db"
    if when == "between":
        task(SQLITE, ONE, code=0)
    path.parent.mkdir(exist_ok=True)
    damaged = b"no database" * 1000
    path.write_bytes(damaged)
    done = task(SQLITE, TWO, in_process=True, code=1)
    assert done.err.startswith(f"Error: hydra.sweeper.storage: {path} ")
    assert len(done.err.splitlines()) == 1
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("change", ["deleted", "empty", "another study"])
def test_folder_with_trials_of_another_study_is_refused(app, tmp_path, change):
    """They wrote into an output folder that existed: old and new results mix unseen.

    Sources: github.com/facebookresearch/hydra/issues/1817 and 2103,
    github.com/hydra-ecosystem/hydra/issues/2925
    Right: the start is refused, and nothing is read or written over. Another folder works.
    """
    task, path = app("return cfg.x"), tmp_path / "sweep" / "study.db"
    task(SQLITE, ONE, code=0)
    if change in ("deleted", "empty"):
        path.unlink()
    if change == "empty":
        path.touch()
    name = "hydra.sweeper.study_name=" + ("other" if change == "another study" else "s")

    def contents():
        files = (each for each in (tmp_path / "sweep").rglob("*") if each.is_file())
        return {each: each.read_bytes() for each in files if not each.name.startswith("study.db")}

    before = contents()
    done = task(SQLITE, name, in_process=True, code=1)
    assert f"hydra.sweep.dir={tmp_path / 'sweep'}" in done.err
    assert contents() == before
    done = task(SQLITE, name, "hydra.sweep.dir=other", ONE, code=0)
    assert len(done.table(folder="other")) == 1
    if change == "another study":
        assert len(task(SQLITE, TWO, code=0).table()) == 2


def test_database_that_is_deleted_during_a_trial_is_named(app):
    """They deleted the file in the middle of a study. The error does not mention the file.

    Source: github.com/optuna/optuna/issues/2722
    """
    body = """
        import glob
        for path in glob.glob("sweep/study.db*"):
            os.remove(path)
        return cfg.x
    """
    done = app(body)(SQLITE, code=1)
    assert "study.db" in done.err
    assert "delete" in done.err
    assert "Traceback" not in done.out + done.err

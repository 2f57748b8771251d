"""Which settings win a sweep that did not go by the book."""

from apps import CONFIG
from omegaconf import OmegaConf

CONFIRM = ("hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1")
TWO = "hydra.sweeper.n_trials=2"


def results(done):
    return OmegaConf.load(done.folder / "sweep" / "results.yaml")


def test_setting_with_a_failed_seed_does_not_win(app):
    """They averaged over those seeds that gave a number (``np.nanmean``), which hides the others.

    Source: github.com/optuna/optuna/issues/433
    Right: the setting without a failed seed wins, and the table shows the failure.
    """
    done = app("return math.nan if cfg.x < 0 and cfg.seed == 2 else cfg.x")(
        "hydra/sweeper/confirm=fresh_seeds", "hydra.sweeper.confirm.n_seeds=2", TWO, code=0
    )
    best, second = sorted(trial.params["x"] for trial in done.trials())
    winner = results(done).winners.all
    assert (winner.params.x, winner.confirm.n, winner.confirm.n_failed) == (second, 2, 0)
    rows = [row for row in done.table("confirmation") if row["state"] == "FAIL"]
    assert [(row["x"], row["seed"]) for row in rows] == [(str(best), "2")]


def test_best_value_wins_although_its_training_stopped_early(app):
    """They used Lightning's EarlyStopping, or searched ``epochs``: trials have different lengths.

    Sources: github.com/optuna/optuna/issues/4203 and 1001
    Right: complete trials are ranked by their value, however long they are.
    """
    body = """
        for epoch in range(2 if cfg.x < 0 else 6):
            hydrasweep.report(cfg.x + 1 / (epoch + 1), epoch)
        return cfg.x
    """
    done = app(body)(*CONFIRM, TWO, code=0)
    steps = {float(row["x"]): row["steps"] for row in done.table()}
    best = min(steps)
    assert (steps[best], steps[max(steps)]) == ("2", "6")
    assert results(done).winners.all.params.x == results(done).best.all[0].params.x == best
    assert [row["x"] for row in done.table("confirmation")] == [str(best)] * 2


def test_few_epochs_win_where_longer_trials_are_pruned_before_the_end_of_short_ones(
    app,
):
    """Source: as above, with ``epochs`` searched and a pruner.

    Not covered: a trial that is stopped at or after the last step of a shorter complete trial.
    It counts as complete, with the value that it has there.
    """
    body = """
        for epoch in range(cfg.epochs):
            if hydrasweep.report(cfg.loss, epoch):
                break
        return cfg.loss
    """
    done = app(body, CONFIG + "epochs: 1\nloss: 0\n")(
        *CONFIRM,
        "~x",
        "epochs=choice(3,9)",
        "loss=choice(1,2,5)",
        "hydra.sweeper.enqueue=[{epochs: 9, loss: 2}, {epochs: 3, loss: 1}, {epochs: 9, loss: 5}]",
        "hydra.sweeper.n_trials=3",
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.pruner.n_startup_trials=2",
        code=0,
    )
    rows = [(row["state"], row["steps"]) for row in done.table()]
    assert rows == [("COMPLETE", "9"), ("COMPLETE", "3"), ("PRUNED", "1")]
    assert results(done).winners.all.params == {"epochs": 3, "loss": 1}


def test_search_that_ran_out_of_time_is_confirmed_and_continues(app):
    """They gave ``n_trials`` and ``timeout``. The study ended after one trial, and they asked what
    its best trial is worth.

    Source: github.com/optuna/optuna/issues/5158
    Right: the best trial so far is confirmed, and the same command continues the search later.
    """
    task = app("time.sleep(1)\nreturn cfg.x")
    done = task(*CONFIRM, TWO, "hydra.sweeper.timeout=0.5", code=0)
    assert done.states() == ["COMPLETE", "WAITING"]
    winner = results(done).winners.all
    assert (winner.params.x, winner.confirm.n) == (done.trials()[0].params["x"], 1)
    assert (done.folder / "sweep" / "best" / "overall.yaml").exists()
    done = task(*CONFIRM, TWO, code=0)
    assert done.states() == ["COMPLETE"] * 2
    assert results(done).winners.all.params.x == min(t.params["x"] for t in done.trials())


def test_strata_without_trials_have_no_winner(app):
    """They tried a large search file with ``n_trials=2`` first, to see whether it works.

    Source: hydra.cc/docs/plugins/optuna_sweeper
    Right: it works although there are fewer trials than strata.
    """
    strata = ("kind=choice(a,b,c)", "hydra.sweeper.stratify=kind")
    done = app("return cfg.x")(*strata, TWO, *CONFIRM, code=0)
    assert [len(done.trials(f"s/{kind}")) for kind in "abc"] == [1, 1, 0]
    assert results(done).winners.keys() == {"a", "b"}
    names = {path.stem for path in (done.folder / "sweep" / "best").iterdir()}
    assert names == {"a", "b", "overall"}

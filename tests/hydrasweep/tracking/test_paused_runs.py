"""Trials that pause and continue have one run in MLflow."""

import signal

from optuna.trial import TrialState

# Runs up to nine steps and saves its state after each of them. The first pause kills the process.
BODY = """
    mlflow.start_run()
    folder = hydra.core.hydra_config.HydraConfig.get().runtime.output_dir
    path = os.path.join(folder, "steps")
    n = len(open(path).readlines()) if os.path.exists(path) else 0
    while True:
        if n and hydrasweep.report(cfg.x, n):
            if not os.path.exists("killed"):
                open("killed", "w").close()
                end_sweep(signal.SIGKILL)
            return cfg.x
        if n == 9:
            return cfg.x
        n += 1
        mlflow.log_metric("x", cfg.x, n)
        with open(path, "a") as file:
            print(n, file=file)
"""


def test_paused_trial_continues_in_its_own_run_also_after_a_kill(app, client):
    task = app(BODY, more="import mlflow\n")
    overrides = (
        "hydra/sweeper/pruner=promotion",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.resumable=true",
        "hydra.sweeper.mlflow=true",
        "hydra.sweeper.n_trials=5",
    )
    assert task(*overrides).code == -signal.SIGKILL
    done = task(*overrides, code=0)
    assert {trial.state for trial in done.lost()} == {TrialState.PRUNED}
    (experiment,) = (e for e in client.search_experiments() if e.name == "tests")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(runs) == 6
    assert len(children) == 5
    for name, run in children.items():
        steps = (done.folder / "sweep" / name / "steps").read_text().split()
        history = client.get_metric_history(run.info.run_id, "x")
        assert [metric.step for metric in history] == list(map(int, steps))
        assert steps == list(map(str, range(1, len(steps) + 1)))
        assert run.data.tags.get("state") == (None if len(steps) == 9 else "PRUNED")

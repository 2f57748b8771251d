"""The runs in MLflow that trials begin: the sweep's children, which end as their trials do."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from hydrasweep.errors import Terminated, environment
from hydrasweep.trials import SweepTrial

URI, NAME, CONTEXT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_CONTEXT"
PARENT, TRIAL, STATE = "mlflow.parentRunId", "trial", "state"  # tags
PRUNED = "PRUNED"  # what the last one says of a pruned trial's run
SETTINGS = {
    # MLflow's own patience with a server that doesn't answer is four minutes a call.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # It would print addresses with the password that may be in them.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Context:
    """What a worker must know of the sweep's run; an address with a password it finds in its
    environment."""

    run_id: str
    uri: str | None


@contextmanager
def child_runs(context: Context | None, trial: SweepTrial) -> Iterator[None]:
    """Make children of the sweep's run of all runs that begin here, closed at the end with the
    status that tells what happened: FAILED of a trial that raised, KILLED of an interrupted one. A
    pruned one has the tag ``state``: MLflow has no such status, and KILLED looks like a crash."""
    if context is None:
        yield
        return
    tags = {
        **json.loads(os.environ.get(CONTEXT) or "{}"),
        **{PARENT: context.run_id, "mlflow.runName": trial.name, TRIAL: trial.name},
        **{"study": trial.sweep, "phase": trial.phase, "stratum": trial.stratum},
    }
    given = {CONTEXT: json.dumps(tags)}
    if context.uri and URI not in os.environ:
        given[URI] = context.uri
    if trial.is_resumed:
        with suppress(Exception), environment(**given, **settings()):
            given |= _earlier_run(context, trial)
    status = "FAILED"
    with environment(**given):
        try:
            yield
            status = "FINISHED"
        except (KeyboardInterrupt, Terminated):
            status = "KILLED"
            raise
        finally:
            if "mlflow" in sys.modules:  # else it has begun no run
                # The trial's result counts, whatever MLflow makes of it.
                with suppress(Exception), environment(**settings()):
                    _close(context, trial, status)


def _earlier_run(context: Context, trial: SweepTrial) -> dict[str, str]:
    """What lets ``mlflow.start_run()`` open the run again that a trial's earlier part began."""
    import mlflow

    for run in children(context.run_id, f"tags.{TRIAL} = '{trial.name}'")[:1]:
        client = mlflow.MlflowClient(context.uri)
        client.set_tag(run.info.run_id, "phase", trial.phase)
        if STATE in run.data.tags:  # it was paused
            client.delete_tag(run.info.run_id, STATE)
        return {"MLFLOW_RUN_ID": run.info.run_id}
    return {}


def _close(context: Context, trial: SweepTrial, status: str) -> None:
    import mlflow

    while mlflow.active_run():
        mlflow.end_run(status)
    if status != "FINISHED" or trial.was_pruned:
        for run in children(context.run_id, f"tags.{TRIAL} = '{trial.name}'"):
            end_run(mlflow.MlflowClient(context.uri), run, status, trial.was_pruned)


def end_run(client: Any, run: Any, status: str, was_pruned: bool) -> None:
    if run.info.status != status:
        client.set_terminated(run.info.run_id, status)
    if was_pruned:
        client.set_tag(run.info.run_id, STATE, PRUNED)


def children(run_id: str, words: str = "") -> list[Any]:
    """Runs that a sweep's trials began."""
    import mlflow

    filters = f"tags.`{PARENT}` = '{run_id}'" + (f" AND {words}" if words else "")
    found = mlflow.search_runs(
        filter_string=filters, search_all_experiments=True, output_format="list"
    )
    return list(found)


def settings() -> dict[str, str]:
    return {name: value for name, value in SETTINGS.items() if name not in os.environ}


def clean(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w./ :-]", "_", name).strip("_") or "_"

"""The runs in MLflow that trials begin: the sweep's children, which end as their trials do."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrasweep.errors import Terminated, environment, without_password
from hydrasweep.trials import NOTE, SweepTrial

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
    experiment_id: str


@contextmanager
def child_runs(context: Context | None, trial: SweepTrial) -> Iterator[None]:
    """Make children of the sweep's run of all runs that begin here, closed at the end with the
    status that tells what happened: FAILED of a trial that raised, KILLED of an interrupted one. A
    pruned one has the tag ``state``: MLflow has no such status, and KILLED looks like a crash.
    Without a ``context`` they are closed alone."""
    given, status = _variables(context, trial) if context else {}, "FAILED"
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


def _variables(context: Context, trial: SweepTrial) -> dict[str, str]:
    """The environment variables by which MLflow makes children of a trial's runs."""
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
    return given


def _earlier_run(context: Context, trial: SweepTrial) -> dict[str, str]:
    """What lets ``mlflow.start_run()`` open the run again that a trial's earlier part began."""
    import mlflow

    client = mlflow.MlflowClient()  # of the store that the app has chosen, if it has
    for run in children(client, context.run_id, f"tags.{TRIAL} = '{trial.name}'")[:1]:
        client.set_tag(run.info.run_id, "phase", trial.phase)
        if STATE in run.data.tags:  # it was paused
            client.delete_tag(run.info.run_id, STATE)
        return {"MLFLOW_RUN_ID": run.info.run_id}
    return {}


def _close(context: Context | None, trial: SweepTrial, status: str) -> None:
    import mlflow

    last = mlflow.active_run() or mlflow.last_active_run()
    while mlflow.active_run():
        mlflow.end_run(status)
    if not context:
        return
    if elsewhere := _elsewhere(context, last):
        trial.set_user_attr(f"{NOTE}mlflow", elsewhere)
    if status != "FINISHED" or trial.was_pruned:
        client = mlflow.MlflowClient()
        for run in children(client, context.run_id, f"tags.{TRIAL} = '{trial.name}'"):
            end_run(client, run, status, trial.was_pruned)


def _elsewhere(context: Context, run: Any) -> str:
    """What to tell of a trial's run that the UI can't show below the sweep's; else ""."""
    import mlflow

    if run is None or run.data.tags.get(PARENT) != context.run_id:
        return ""
    uri = whole(without_password(mlflow.get_tracking_uri()))
    if context.uri and uri != whole(context.uri):
        return (
            f"its run is not in the sweep's store of MLflow but in {uri}: {URI}={uri} for both, in "
            "place of mlflow.set_tracking_uri"
        )
    if run.info.experiment_id == context.experiment_id:
        return ""
    name = mlflow.get_experiment(run.info.experiment_id).name
    return (
        f"its run is in MLflow's experiment {name}, the sweep's is in another: {NAME}={name} has "
        "both in one"
    )


def whole(uri: str) -> str:
    """An address of MLflow's, that of a database's file by its whole path."""
    return re.sub(r"(?<=^sqlite:///)[^?]+", lambda file: str(Path(file[0]).resolve()), uri)


def end_run(client: Any, run: Any, status: str, was_pruned: bool) -> None:
    if run.info.status != status:
        client.set_terminated(run.info.run_id, status)
    if was_pruned:
        client.set_tag(run.info.run_id, STATE, PRUNED)


def children(client: Any, run_id: str, words: str = "") -> list[Any]:
    """Runs that a sweep's trials began, in any experiment."""
    filters = f"tags.`{PARENT}` = '{run_id}'" + (f" AND {words}" if words else "")
    experiments = [each.experiment_id for each in _all(client.search_experiments)]
    return _all(client.search_runs, experiment_ids=experiments, filter_string=filters)


def _all(search: Callable[..., Any], **words: Any) -> list[Any]:
    """What MLflow gives page by page."""
    page = search(**words)
    found = list(page)
    while page.token:
        page = search(**words, page_token=page.token)
        found += page
    return found


def settings() -> dict[str, str]:
    return {name: value for name, value in SETTINGS.items() if name not in os.environ}


def clean(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w./ :-]", "_", name).strip("_") or "_"

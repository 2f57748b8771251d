"""A sweep for whoever looks at it in Python: its trials as a table, its studies, its figures."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import Study

from hydrasweep import output, page, plots, results, starts, storage
from hydrasweep.budgets import Budget, steps
from hydrasweep.errors import UserError
from hydrasweep.folders import find
from hydrasweep.studies import RUN_URI
from hydrasweep.trials import SEARCH

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class LoadedSweep:
    """A sweep as it was when it was loaded.

    Its methods draw the report's figures, of one ``objective`` where there are several; they raise
    a ``UserError`` where there are too few trials. The report says what each of them shows.
    """

    def __init__(self, folder: Path) -> None:
        self._start = starts.last(folder)
        try:
            with _quiet():
                self.sweep = page.read(folder)
        finally:
            storage.close_storages()

    @property
    def name(self) -> str:
        return self.sweep.name

    @property
    def folder(self) -> Path:
        return self.sweep.folder

    @property
    def state(self) -> str:
        """Running, finished, stopped by an error, interrupted, killed or unknown."""
        return starts.state(self._start)

    @property
    def trials(self) -> "pd.DataFrame":
        """A row for each trial that has begun, in that order, of all phases and strata.

        Columns are ``phase`` (search, confirm or final), ``folder`` (the name of the trial's),
        ``number``, ``state`` (as Optuna's), ``value`` (or ``value_0`` and so on, of several
        objectives; of a pruned trial its last report), ``steps``, ``duration_s``, and one for each
        setting that was searched and each number that trials recorded, by its own name.

        Raises:
            UserError: pandas is not installed.
        """
        columns, rows = self._table
        return _pandas().DataFrame(rows, columns=columns)

    @property
    def winners(self) -> "pd.DataFrame":
        """A row for each winner that was confirmed, in the order of the strata.

        Columns are its settings, ``search`` (its value there), ``confirmed``, ``sd`` and
        ``n_seeds`` (mean and standard deviation over fresh seeds), and the mean of each number
        that its final trials recorded.

        Raises:
            UserError: pandas is not installed.
        """
        rows = []
        for winner in self.sweep.winners:
            told = winner.record(self.sweep.stratify)
            again = {"confirmed": told["confirm"]["mean"], "sd": told["confirm"]["sd"]}
            again |= {"n_seeds": told["confirm"]["n"], "search": told["search"]["value"]}
            means = {name: score.mean for name, score in winner.recorded.items()}
            rows.append(told["params"] | again | means)
        return _pandas().DataFrame(rows)

    @cached_property
    def _table(self) -> tuple[list[str], list[dict[str, object]]]:
        return results.table(list(self.sweep.phases.values()), self.sweep.stratify)

    @cached_property
    def study(self) -> Study:
        """The search as one study of Optuna's, the setting that it is stratified by a parameter."""
        with _quiet():
            return plots.merge(self.sweep.search.trials(), self.sweep, name=self.name)

    @property
    def studies(self) -> dict[str, Study]:
        """The search of each stratum, by the value that it has ("" without strata)."""
        return {stratum.value: stratum.study for stratum in self.sweep.search.strata}

    def plot_history(self, objective: int = 0) -> "go.Figure":
        """The values of complete trials, and the best so far."""
        return self._view("history", objective)

    def plot_curves(self, objective: int = 0) -> "go.Figure":
        """What each trial reported, step by step."""
        return self._view("curves", objective)

    def plot_importances(self, objective: int = 0) -> "go.Figure":
        """How much each setting matters, with the standard error."""
        return self._budget("importances", objective)

    def plot_parallel(self, objective: int = 0) -> "go.Figure":
        """A line for each trial, over all settings."""
        return self._budget("parallel", objective)

    def plot_timeline(self) -> "go.Figure":
        """What each worker did when."""
        with _quiet():
            return _first(plots.timeline(self.sweep))

    def _view(self, name: str, objective: int) -> "go.Figure":
        with _quiet():
            return _first(self.sweep.views[objective].figures.get(name))

    def _budget(self, name: str, objective: int) -> "go.Figure":
        with _quiet():
            return _first(Budget(self.sweep, objective, steps(self.sweep)[0]).figures.get(name))

    def summary(self) -> str:
        """What the end of the sweep prints, also before that."""
        start, folder = self._start, os.path.relpath(self.folder)
        lines = [f"Sweep {self.name} in {folder}: {self.state}"]
        if start and start.may_run:
            lines[0] += f" ({starts.in_words(start.process)})"
        elif start and start.why:
            lines[0] += f" ({start.why})"
        for phase, studies in self.sweep.phases.items():
            if phase != SEARCH:
                lines.append(f"Trials, {phase}: {output.counts(studies)}")
        search = self.sweep.search
        uri = search.head.user_attrs.get(RUN_URI, "")
        lines.append(output.summary(search, self.sweep.winners, self.folder, uri))
        if start and not start.may_run and start.how != starts.FINISHED:
            lines.append(f"{'To resume':14}python -m hydrasweep resume {folder}")
        return "\n".join(lines)

    def csv(self) -> str:
        """All of ``trials`` as text, for which pandas is not needed."""
        return results.as_csv(*self._table)

    def write_parquet(self, path: Path) -> None:
        """Write all of ``trials`` into a file; a column with values of several kinds as text.

        Raises:
            UserError: pandas or pyarrow is not installed.
        """
        frame = self.trials
        for name in frame.columns:
            if frame[name].map(type, na_action="ignore").dropna().nunique() > 1:
                frame[name] = frame[name].map(str, na_action="ignore")
        try:
            frame.to_parquet(path)
        except ImportError as error:
            raise UserError(
                "a Parquet file needs pyarrow: python -m pip install pyarrow"
            ) from error

    def __repr__(self) -> str:
        return f"<sweep {self.name} in {self.folder}: {self.state}>"


def load(name: str | os.PathLike[str]) -> LoadedSweep:
    """The sweep in a folder or, below the current folder, of that name."""
    return LoadedSweep(find(os.fspath(name)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's message for each study that is made."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise UserError("a table needs pandas: python -m pip install pandas") from error
    return pd


def _first(figures: "Sequence[go.Figure] | None") -> "go.Figure":
    if not figures:
        raise UserError("there are too few trials for this figure")
    return figures[0]

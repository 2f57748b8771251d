"""Fixtures of the sweeper's tests. They need neither torch nor MLflow nor the application."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apps
import pytest
import shared

from hydrasweep import __main__ as command
from hydrasweep.storage import close_storages


@pytest.fixture(autouse=True)
def close_opened_storages() -> Iterator[None]:
    yield
    close_storages()


@pytest.fixture
def app(tmp_path: Path) -> Callable[..., apps.App]:
    """``app(body)`` writes an app with that task function and returns the command that runs it."""
    return lambda *args, **kwargs: apps.write(tmp_path, *args, **kwargs)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> apps.Ended:
    """A finished sweep, which tests only read (see shared.py). A test that changes something
    copies its folder first."""
    return shared.sweep(tmp_path_factory, "finished")


@pytest.fixture
def verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[str, str]]:
    """``verb("show", "s")`` runs ``python -m hydrasweep show s`` in this process, in the app's
    folder, and returns its output and its error message ("" if it succeeded)."""

    def run(*words: str, at: Path = tmp_path) -> tuple[str, str]:
        monkeypatch.chdir(at)
        monkeypatch.setattr(sys, "argv", ["hydrasweep", *words])
        capsys.readouterr()
        error = ""
        try:
            command.main()
        except SystemExit as end:
            error = str(end.code or "")
        return capsys.readouterr().out, error

    return run

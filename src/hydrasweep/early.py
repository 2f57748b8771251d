"""Worker processes that are started while the sweep is still being checked: what they import takes
them as long as the check takes this process."""

import importlib
import signal
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from hydra.types import TaskFunction
from omegaconf import DictConfig

from hydrasweep.errors import environment
from hydrasweep.launch import python_path

SHARED = ("temp_folder", "max_nbytes", "mmap_mode")  # joblib keeps processes started with the same


class EarlyWorkers:
    """Joblib's processes, which it keeps for the launch; other launchers' start with it."""

    def __init__(self, config: DictConfig, n_workers: int, task_function: TaskFunction) -> None:
        launcher = config.hydra.launcher
        is_loky = launcher.get("backend") == "loky" and not launcher.inner_max_num_threads
        self.n_workers = n_workers if is_loky and n_workers > 1 else 0
        self.task_function = task_function
        self._kept = {key: launcher[key] for key in SHARED} if self.n_workers else {}
        self._importing: Any = iter(())

    def import_modules(self, names: Iterable[str]) -> None:
        """Have each of them import these, after what the task function refers to; returns at once,
        unless they still import what they were told before."""
        if not self.n_workers:
            return
        from joblib import Parallel, delayed
        from joblib.externals.loky.backend import resource_tracker

        self._join()
        # It warns of what processes that are ended while they start have not closed.
        with environment(PYTHONWARNINGS="ignore:resource_tracker"):
            resource_tracker.ensure_running()
        workers = Parallel(self.n_workers, "loky", return_as="generator_unordered", **self._kept)
        tasks = [delayed(_imported)(list(names), self.task_function)] * self.n_workers
        with environment(PYTHONPATH=python_path()):
            self._importing = workers(tasks)

    def _join(self) -> None:
        with suppress(Exception):  # what is wrong with a worker is told when it is launched
            list(self._importing)

    def wait(self) -> None:
        """Wait until they have imported all; they are the launcher's now."""
        self._join()
        self.n_workers = 0

    def close(self) -> None:
        """End them, unless they are the launcher's."""
        if self.n_workers:
            with warnings.catch_warnings(action="ignore"):  # joblib's, that nobody takes results
                self._importing.close()
            self.n_workers = 0


def loaded_modules() -> list[str]:
    """Names of the modules that this process has imported, but for Python's own."""
    tops = {*sys.stdlib_module_names, "__main__", "__mp_main__"}
    return [name for name in sys.modules if name.partition(".")[0] not in tops]


def _imported(names: list[str], task_function: TaskFunction) -> None:
    del task_function  # to receive it has imported what it refers to
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's to handle
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    signal.signal(signal.SIGINT, before)

"""What Hydra finds of hydrasweep: the sweeper, and where its config groups are.

Every Hydra app in the environment imports this module at its start: nothing heavy belongs here.
"""

from contextlib import closing
from typing import TYPE_CHECKING, Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydrasweep.errors import plain_exit
from hydrasweep.settings import SweeperConf, check_settings, count_workers, gpus, is_local

if TYPE_CHECKING:
    from hydrasweep.processes import Processes


class HydraSweepSearchPath(SearchPathPlugin):
    """Makes ``hydra/sweeper/pruner=NAME`` and the like known to every app."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra."""
        search_path.append("hydrasweep", "pkg://hydrasweep.conf")


class HydraSweepSweeper(Sweeper):
    """What ``hydra/sweeper=hydrasweep`` makes; ``SweeperConf`` has its settings."""

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction

    def __init__(self, **settings: Any) -> None:
        del settings  # they are in the config, where what they refer to is known

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``sweep``."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep that config and overrides describe, or resume it."""
        chosen = self.config.hydra.sweeper
        with plain_exit():
            check_settings(chosen, self.config)
        # From here on another process imports what trials need.
        with closing(self._processes()) as processes:
            processes.import_modules([str(chosen.check).rpartition(".")[0]])
            with plain_exit():
                from hydrasweep.sweep import Sweep  # and with it Optuna
            Sweep(self.config, self.hydra_context, self.task_function, processes).run(arguments)

    def _processes(self) -> "Processes":
        """Processes in which trials run at once on this machine; with another launcher than the
        basic one, in which the sweep is checked."""
        from hydrasweep.processes import Processes
        from hydrasweep.server import App

        chosen, n = self.config.hydra.sweeper, 1
        app = App(self.task_function, self.hydra_context)
        if is_local(self.config):
            n = count_workers(chosen, self.config)
        return Processes(app, n, gpus() if n > 1 and len(gpus()) > 1 else [], chosen.isolate)


ConfigStore.instance().store(
    group="hydra/sweeper", name="hydrasweep", node=SweeperConf, provider="hydrasweep", replace=True
)

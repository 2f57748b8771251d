"""The search: a Hydra sweeper whose launcher launches workers, which ask Optuna for trials."""


def register() -> None:
    """Make ``hydra/sweeper=optuna`` mean this sweeper, for the app that calls it.

    Called before ``@hydra.main`` runs. It is not done by an entry point, which would change
    what that name means for every other Hydra app in the environment.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    from hydrasweep.search.config import SweeperConf
    from hydrasweep.search.sweeper import Sweeper

    Plugins.instance().register(Sweeper)
    ConfigStore.instance().store(
        group="hydra/sweeper",
        name="optuna",
        node=SweeperConf,
        provider="hydrasweep",
        replace=True,
    )

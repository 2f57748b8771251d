"""Choices are lists, dicts and classes by their dotted names.

They: ``choice("[128, 32]", "[128]")`` for layers, which ended in a traceback; and
``_target_: choice("torch.optim.SGD", "torch.optim.Adam")``.
Source: github.com/ashleve/lightning-hydra-template/issues/656,
github.com/ashleve/lightning-hydra-template/issues/457
Right: lists are lists in the trial's config, in the recipe and where they are enqueued; tables and
MLflow show them as they were written.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from apps import CONFIG, App
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from mlflow import MlflowClient


MORE = """
betas: [0.5, 0.5]
net: {width: 1, depth: 1}
optimizer: {_target_: torch.optim.Adam, lr: 0.1}
"""
WORDS = (
    "~x",
    'betas=choice("[0.9,0.999]","[0.8,0.99]")',
    "net=choice({width:8,depth:2},{width:16,depth:1})",
    'optimizer._target_=choice("torch.optim.SGD","torch.optim.AdamW")',
)
BODY = """
    from omegaconf import ListConfig
    assert isinstance(cfg.betas, ListConfig), cfg.betas
    assert list(cfg.betas) in ([0.9, 0.999], [0.8, 0.99])
    assert dict(cfg.net) in ({"width": 8, "depth": 2}, {"width": 16, "depth": 1})
    assert cfg.optimizer._target_ in ("torch.optim.SGD", "torch.optim.AdamW")
    return cfg.betas[0] + cfg.net.width + len(cfg.optimizer._target_)
"""
BEST = (0.8, 8, "torch.optim.SGD")


def test_lists_dicts_and_classes_are_searched_and_confirmed(
    app: Callable[..., App], client: "MlflowClient"
) -> None:
    words = ("hydra.sweeper.mlflow=true", "hydra/sweeper/confirm=two_seeds")
    done = app(BODY, CONFIG + MORE)(*WORDS, *words, "hydra/sweeper/sampler=grid")
    assert done.code == 0, done.err
    assert done.states() == ["COMPLETE"] * 8
    assert {row["betas"] for row in done.table()} == {"[0.9,0.999]", "[0.8,0.99]"}
    assert {row["optimizer._target_"] for row in done.table()} == {
        "torch.optim.SGD",
        "torch.optim.AdamW",
    }
    recipe: Any = OmegaConf.load(done.folder / "sweep" / "best" / "overall.yaml")
    assert (recipe.betas[0], recipe.net.width, recipe.optimizer._target_) == BEST
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["space.betas"] == "one of [0.9,0.999], [0.8,0.99]"


@pytest.mark.parametrize("betas", ['"[0.8,0.99]"', "[0.8,0.99]"])
def test_list_is_enqueued_as_text_or_as_a_list(app: Callable[..., App], betas: str) -> None:
    done = app(BODY, CONFIG + MORE)(
        *WORDS,
        f"hydra.sweeper.enqueue=[{{betas: {betas}, optimizer._target_: torch.optim.SGD}}]",
        "hydra.sweeper.n_trials=1",
    )
    assert done.code == 0, done.err
    (row,) = done.table()
    assert (row["betas"], row["optimizer._target_"]) == ("[0.8,0.99]", BEST[2])

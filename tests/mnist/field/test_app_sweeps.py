"""Users search hyperparameters: objectives, the check before the trials, and resuming."""

import logging
import re
import shutil
from collections.abc import Callable

import pytest
from application import REPOSITORY, client_of, runs_of
from omegaconf import DictConfig, OmegaConf

from hydrasweep import UserError
from mnist import config, preflight
from train import train

AsJob = Callable[[DictConfig], DictConfig]


def test_objective_on_training_images_is_refused_in_a_search(compose, as_job):
    """``hparams_search=NAME experiment=NAME``: the experiment's objective is train/accuracy.

    Sources: github.com/hydra-ecosystem/hydra/issues/2253,
    github.com/ashleve/lightning-hydra-template/issues/227
    Expected: the check before the trials refuses it, and names objectives that are possible.
    """
    words = ("hparams_search=quick", "experiment=tutorial_cnn")
    cfg = compose(*words, return_hydra_config=True, small=False)
    with pytest.raises(UserError, match=r"^objective=train/accuracy: .*val/.*data\.n_val"):
        preflight.check(as_job(cfg))
    cfg = compose(*words, "objective=val/accuracy", return_hydra_config=True)
    assert preflight.check(as_job(cfg)) > 0


def test_direction_must_fit_the_objective(compose, as_job):
    """A search has the objective val/loss, and the direction stays at its default.

    What happened: the search looked for the largest loss.
    Sources: github.com/optuna/optuna/issues/2733, github.com/hydra-ecosystem/hydra/issues/2047
    Expected: ``maximize`` is refused; with ``minimize``, trials and the final run pass the check.
    """
    loss = ("hparams_search=quick", "model=baseline", "objective=val/loss")
    cfg = compose(*loss, return_hydra_config=True)
    final = list(cfg.hydra.sweeper.confirm.final)
    assert final == ["score_test=true", "artifacts=true"]
    with pytest.raises(UserError, match=r"^hydra\.sweeper\.direction=maximize: .*minimize"):
        preflight.check(as_job(cfg))
    for more in ([], [*final, "seed=1"]):
        words = (*loss, "hydra.sweeper.direction=minimize", *more)
        assert preflight.check(as_job(compose(*words, return_hydra_config=True))) > 0


COUNTED = """
from torch.optim import SGD

n_steps = 0

class Counted(SGD):
    def step(self, closure=None):
        global n_steps
        n_steps += 1
        if self.param_groups[0]["momentum"]:
            raise ZeroDivisionError("in a step")
        return super().step(closure)
"""


@pytest.mark.parametrize(("n_train", "n_steps"), [(20, 1), (40, 2), (64, 2), (96, 3)])
def test_check_trains_at_least_one_step(
    compose,
    as_job,
    users,
    monkeypatch,
    n_train,
    n_steps,
):
    """A pipeline is tried out on a handful of images, fewer than the check trains on.

    What happened: the check did no step, so it found no error.
    Sources: github.com/fw-ai/cookbook/pull/335,
    github.com/Lightning-AI/pytorch-lightning/issues/286
    """
    users(COUNTED)
    import users as module

    monkeypatch.setattr(preflight, "_costs", {})
    words = ("hparams_search=quick", "model=baseline", "optimizer=sgd", "data.batch_size=32")
    few = ("optimizer._target_=users.Counted", f"data.n_train={n_train}", "epochs=1")
    cfg = compose(*words, *few, "+optimizer.momentum=0.0", return_hydra_config=True)
    assert preflight.check(as_job(cfg)) > 0
    assert module.n_steps == n_steps
    cfg.optimizer.momentum = 0.9
    with pytest.raises(ZeroDivisionError, match="in a step"):
        preflight.check(as_job(cfg))


def test_model_in_a_subfolder_is_checked_and_recorded_by_its_whole_name(
    compose, as_job, root, output_dir, tmp_path
):
    """Model files are in subfolders of their group, in a folder on ``hydra.searchpath``.

    Sources: github.com/slegroux/nimrod config/train.yaml,
    github.com/hydra-ecosystem/hydra/issues/1766
    """
    folder = tmp_path / "mine" / "model" / "image"
    folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "conf" / "model" / "lenet5.yaml", folder / "conv.yaml")
    words = (f"hydra.searchpath=[file://{tmp_path / 'mine'}]", "model=image/conv", "epochs=1")
    lean = ("artifacts=false", "score_test=false", f"hydra.runtime.output_dir={output_dir}")
    train(as_job(compose(*words, *lean, return_hydra_config=True)), output_dir)
    (run,) = runs_of(client_of(root))
    assert run.info.status == "FINISHED"
    assert run.data.params["model"] == run.data.tags["architecture"] == "image/conv"
    assert run.info.run_name.startswith("image/conv lr=0.003")
    cfg = compose(*words, *lean, "hparams_search=quick", return_hydra_config=True)
    assert preflight.check(as_job(cfg)) > 0


SEARCHES = sorted(path.stem for path in (REPOSITORY / "conf" / "hparams_search").glob("*.yaml"))


@pytest.mark.parametrize("search", SEARCHES)
def test_sweep_may_be_resumed_on_another_machine(compose, search):
    """A study goes on where the data lie elsewhere, with another number of cores or device.

    Sources: github.com/optuna/optuna/issues/6132, github.com/optuna/optuna/issues/2151
    Expected: settings of place and speed may differ between two starts, and no others.
    """
    cfg = compose(f"hparams_search={search}", return_hydra_config=True)
    assert list(cfg.hydra.sweeper.may_change) == ["n_threads", "device", "paths", "tracking"]


def test_final_run_of_a_sweep_can_be_resumed_by_itself(
    compose,
    output_dir,
    job_in,
    caplog,
):
    """The final run of a sweep was killed, and is resumed with the application's ``resume=``.

    Sources: github.com/hydra-ecosystem/hydra/issues/1822, github.com/optuna/optuna/issues/2705
    Expected: it ends with its own settings and objective. It does not see the test images, and
    says that the sweep's command scores them.
    """
    cfg = compose("model=baseline", "epochs=1", "tracking=none", "score_test=true")
    (output_dir / ".hydra").mkdir()
    OmegaConf.save(cfg, output_dir / ".hydra" / "config.yaml")
    hydra = {"mode": "MULTIRUN", "runtime": {"choices": {"model": "baseline"}}}
    OmegaConf.save({"hydra": hydra}, output_dir / ".hydra" / "hydra.yaml")
    job_in(output_dir.parent / "elsewhere")
    caplog.set_level(logging.INFO, "mnist")
    value = train(*config.resolve_run(compose(f"resume={output_dir}")))
    assert value > 0.1
    assert "score_test=false" in caplog.text
    assert re.search(r"^val +accuracy", caplog.text, re.MULTILINE)
    assert "test/accuracy" not in caplog.text

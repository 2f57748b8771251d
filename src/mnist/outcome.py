"""What a run is said to be at its start, and what it keeps at its end."""

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from mnist import config, files, seal, store
from mnist.assembly import Assembly
from mnist.data import Split
from mnist.recording import Description, Run
from mnist.training import Training, evaluate, predict


def describe(cfg: DictConfig, job: Assembly, output_dir: Path) -> Description:
    """The run's name, the choices and numbers that people compare runs by, and its marks; all
    settings are in the file config.yaml."""
    config.keep_settings(output_dir)
    (output_dir / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    chosen, groups = config.choices(cfg, output_dir), {"": cfg}
    groups |= {f"{group}.": cfg[group] for group in config.GROUPS}
    numbers = {
        prefix + key: node[key]
        for prefix, node in groups.items()
        for key in map(str, node)
        if not OmegaConf.is_interpolation(node, key) and type(node[key]) in (int, float)
    }
    lr = f" lr={cfg.optimizer.lr:.3g}" if "lr" in cfg.optimizer else ""
    tags = {
        "architecture": chosen["model"],
        "data": job.data.name,
        "device": job.train.targets.device,
        "n_threads": cfg.n_threads,
        "fast_layers": ", ".join(cfg.fast_layers) or "none",
        "seed": cfg.seed,
        "n_parameters": f"{totals(job.training)['n_parameters']:.0f}",
        **{
            f"version.{each}": version(each) for each in ("torch", "hydra-core", "optuna", "mlflow")
        },
    }
    return Description(
        name=f"{chosen['model']}{lr} {chosen['optimizer']} batch={cfg.data.batch_size} "
        f"seed={cfg.seed}",
        params=chosen | numbers,
        tags={key: str(value) for key, value in tags.items()},
        dataset=(job.data.name, job.data.digest, str(job.data.root)),
    )


def totals(training: Training) -> dict[str, float]:
    """What can be said of a run at any time."""
    n_parameters = sum(parameter.numel() for parameter in training.model.parameters())
    return {"n_parameters": float(n_parameters), "time/train_seconds": training.seconds}


def conclude(cfg: DictConfig, job: Assembly, run: Run) -> dict[str, float]:
    """Score, draw and save what the config asks for; give the metrics that a run has once.

    ``test/*`` is among them only where ``score_test`` is set, which is the only way to the test
    split.
    """
    training, name, split, once = job.training, "val", job.val, totals(job.training)
    if cfg.score_train:
        part = cfg.score_train.rpartition("/")[0]
        once[cfg.score_train] = evaluate(part, training, job.train)[cfg.score_train]
    if not training.epoch and len(split.targets):  # how the first weights do
        once |= evaluate(name, training, split)
    if cfg.score_test:
        seal.check()
        name, split = "test", job.data.test()
        once |= evaluate(name, training, split)
    run.log_once(once, step=training.epoch)
    if cfg.artifacts:
        _keep(job, name, split, run)
    return once


def _keep(job: Assembly, name: str, split: Split, run: Run) -> None:
    """Keep pictures, the weights, and in MLflow a model from raw inputs to outputs."""
    training, pictures, weights = (
        job.training,
        run.output_dir / "pictures",
        run.output_dir / "model.pt",
    )
    pictures.mkdir(exist_ok=True)
    outputs = predict(training, split).cpu()
    training.task.draw(job.data, name, Split(*(rows.cpu() for rows in split)), outputs, pictures)
    with training.average.applied():
        model = copy.deepcopy(nn.Sequential(training.normalize, training.model)).cpu().eval()
    files.save(weights, model[1].state_dict())

    def log(mlflow: Any) -> None:
        mlflow.log_artifacts(str(pictures), "pictures")
        mlflow.log_artifact(str(weights))
        outputs = mlflow.get_run(mlflow.active_run().info.run_id).outputs
        if outputs and outputs.model_outputs:  # of a finished run that was resumed
            return
        store.log_model(mlflow, model, job.data.first(2).inputs.numpy())

    run.send(log)

"""What a run is said to be at its start, and what it keeps at its end."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mnist import config, files, seal
from mnist.assembly import Assembly
from mnist.data import Split
from mnist.recording import Description, Run
from mnist.training import Training, evaluate, predict


def describe(cfg: DictConfig, job: Assembly, output_dir: Path) -> Description:
    """The run's name, the numbers and choices that people compare runs by, and its marks.

    All settings go into the file config.yaml.
    """
    files.write(output_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    chosen = config.choices(cfg, output_dir)
    lr = f" lr={cfg.optimizer.lr:.3g}" if "lr" in cfg.optimizer else ""
    groups = {f"{group}.": cfg[group] for group in config.GROUPS} | {"": cfg}
    numbers = {
        prefix + key: node[key]
        for prefix, node in groups.items()
        for key in node
        if not OmegaConf.is_interpolation(node, key) and type(node[key]) in (int, float)
    }
    versions = ("torch", "hydra-core", "optuna", "mlflow")
    return Description(
        name=f"{chosen['model']}{lr} {chosen['optimizer']} batch={cfg.data.batch_size} "
        f"seed={cfg.seed}",
        params=chosen | numbers,
        tags={
            "architecture": chosen["model"],
            "data": job.data.name,
            "device": str(job.train.targets.device),
            "n_threads": str(torch.get_num_threads()),
            "seed": str(cfg.seed),
            "n_parameters": str(job.training.n_parameters),
            **{f"version.{package}": version(package) for package in versions},
        },
        dataset=(job.data.name, job.data.digest, str(job.data.root)),
    )


def totals(training: Training) -> dict[str, float]:
    """What a run has before its first epoch, too."""
    n_parameters = sum(parameter.numel() for parameter in training.model.parameters())
    return {"n_parameters": float(n_parameters), "time/train_seconds": training.seconds}


def conclude(cfg: DictConfig, job: Assembly, run: Run) -> dict[str, float]:
    """Score, draw and save what the config asks for; give the metrics that a run has once.

    ``test/*`` is among them only where ``score_test`` is set, which is the only way to the test
    split.
    """
    training, name, split = job.training, "val", job.val
    once = {"n_parameters": totals(training)["n_parameters"]}
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
    pictures, weights, training = run.output_dir / "pictures", run.output_dir / "model.pt", job.training
    pictures.mkdir(exist_ok=True)
    on_cpu = Split(*(rows.cpu() for rows in split))
    training.task.draw(job.data, name, on_cpu, predict(training, split).cpu(), pictures)
    files.save(weights, training.model.state_dict())
    model = nn.Sequential(training.normalize, training.model).cpu().eval()
    example = job.data.first(2).inputs.numpy()

    def log(mlflow: Any) -> None:
        mlflow.log_artifacts(str(pictures), "pictures")
        mlflow.log_artifact(str(weights))
        outputs = mlflow.get_run(mlflow.active_run().info.run_id).outputs
        if not (outputs and outputs.model_outputs):  # else a finished run was resumed
            mlflow.pytorch.log_model(
                model,
                name="model",
                input_example=example,
                pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "torch")],
                # A graph, not a pickle: loading it runs no code and needs none of ours.
                serialization_format="pt2",
            )

    run.send(log)

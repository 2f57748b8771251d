"""What a run is said to be at its start, and what it keeps at its end."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from mnist import config, files
from mnist.data import ImageData, Split
from mnist.tracking import Description, Run
from mnist.training import Training, predict, score


def describe(cfg: DictConfig, data: ImageData, training: Training, output_dir: Path) -> Description:
    """The run's name, settings, marks and files, for the tracker and the header."""
    model, optimizer = config.kind(cfg.model), config.kind(cfg.optimizer)
    resolved = output_dir / "config.yaml"
    files.write(resolved, OmegaConf.to_yaml(cfg, resolve=True))
    overrides = output_dir / ".hydra" / "overrides.yaml"
    return Description(
        name=f"{model} lr={cfg.optimizer.lr:.3g} {optimizer} batch={cfg.data.batch_size} "
        f"seed={cfg.seed}",
        params=config.flatten(cfg),
        tags={
            "architecture": model,
            "data": data.name,
            "device": str(next(training.model.parameters()).device),
            "n_threads": str(torch.get_num_threads()),
            "seed": str(cfg.seed),
            **{key: str(cfg[key]) for key in ("study", "phase") if cfg[key]},
            "n_parameters": str(n_parameters(training.model)),
        },
        dataset=(data.name, data.digest, str(data.root)),
        files=[path for path in (resolved, overrides) if path.exists()],
    )


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def conclude(
    cfg: DictConfig, data: ImageData, training: Training, val: Split, run: Run
) -> dict[str, float]:
    """Score, draw and save what the config asks for; give the metrics that the run ends with.

    They are the last epoch's, and those that a run has once: ``test/*`` among them only
    where ``score_test`` is set, which is the only way to the test images.
    """
    epochs = run.history()
    once = {
        "n_parameters": float(n_parameters(training.model)),
        "time/train_seconds": sum(epoch["time/epoch_seconds"] for epoch in epochs),
    }
    if cfg.score_train:
        once[cfg.score_train] = _score("train", training, data.development()[0])["train/accuracy"]
    name, split = "val", val
    if not epochs and len(val.labels):  # nothing was trained: how the first weights do
        once |= _score(name, training, split)
    if cfg.score_test:
        name, split = "test", data.test()
        once |= _score(name, training, split)
    run.log_once(once, step=training.epoch)
    if cfg.artifacts:
        _draw(name, split, data, training, run)
        _keep_model(data, training, run)
    return {key: value for key, value in (epochs or [{}])[-1].items() if key != "step"} | once


def _score(name: str, training: Training, split: Split) -> dict[str, float]:
    logits = predict(training.model, training.normalize, split)
    loss, accuracy = score(logits, split.labels.to(logits.device))
    return {f"{name}/loss": loss, f"{name}/accuracy": accuracy}


def _draw(name: str, split: Split, data: ImageData, training: Training, run: Run) -> None:
    from mnist import figures  # matplotlib takes a second to import

    folder = run.output_dir / "pictures"
    folder.mkdir(exist_ok=True)
    figures.draw_first(data, folder / "first_images.png")
    if len(split.labels):
        logits = predict(training.model, training.normalize, split).cpu()
        split = split.to(torch.device("cpu"))
        title = f"{data.name}, {len(logits):,} {name} images"
        figures.draw_confusion(logits, split.labels, title, folder / "confusion.png")
        worst = folder / "worst_mistakes.png"
        figures.draw_mistakes(logits, split, f"Worst mistakes on {title}", worst)
    for path in sorted(folder.glob("*.png")):
        run.save_artifact(path, "pictures")


def _keep_model(data: ImageData, training: Training, run: Run) -> None:
    """Save the weights, and a model from raw pixels (uint8) to logits."""
    path = run.output_dir / "model.pt"
    files.save(path, training.model.state_dict())
    run.save_artifact(path)
    model = nn.Sequential(training.normalize, training.model).cpu().eval()
    run.save_model(model, data.first(2).images.numpy())

"""Train one model: config, data, model, epochs, objective. See conf/train.yaml and --help."""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

os.environ.setdefault("HYDRASWEEP_ROOT", str(Path(__file__).resolve().parents[1]))

from hydrasweep import cli, config


def train(cfg: DictConfig, output_dir: Path) -> float | list[float]:
    """Train as ``cfg`` says, going on where ``output_dir`` has a state; give the objective."""
    config.check(cfg)
    import torch

    from hydrasweep import display, outcome
    from hydrasweep.training import Meter, Training, fit

    device = config.resolve_device(cfg.device)
    torch.set_num_threads(cfg.n_threads or torch.get_num_threads())
    torch.manual_seed(cfg.seed)
    data = config.build(cfg.data)
    train_split, val_split = (split.to(device) for split in data.development())
    cfg.n_steps = max(1, cfg.epochs * -(-len(train_split.labels) // cfg.data.batch_size))
    model = config.build(cfg.model).to(device)
    optimizer = config.build(cfg.optimizer)(model.parameters())
    scheduler = config.build(cfg.scheduler)(optimizer)
    augment = config.build(cfg.augmentation)
    training = Training(model, data.normalize().to(device), augment, optimizer, scheduler)
    state = output_dir / "last.pt"
    if state.exists():
        training.load(state)

    about = outcome.describe(cfg, data, training, output_dir)
    with config.build(cfg.tracking).run(output_dir, about) as run:
        display.show(display.header(about, output_dir))
        meter = Meter()
        sizes = {"epochs": cfg.epochs, "batch_size": cfg.data.batch_size}
        epochs = fit(
            training, train_split, val_split, **sizes, smoothing=cfg.label_smoothing, meter=meter
        )
        for metrics in display.with_bar(epochs, meter, cfg.data.batch_size):
            run.log(metrics, step=training.epoch)
            display.log.info(display.epoch_line(training.epoch, cfg.epochs, metrics))
            if cfg.checkpoint:
                training.save(state)
        final = outcome.conclude(cfg, data, training, val_split, run)
    display.show(display.footer(final, run, cfg.paths.root))
    values = [final[name] for name in config.objectives(cfg)]
    return values[0] if len(values) == 1 else values


@hydra.main(config_path="../conf", config_name="train", execution_whitelist=config.TRUSTED)
def main(cfg: DictConfig) -> float | list[float]:
    with cli.plain_exit():
        cfg, output_dir = config.started(cfg)
    with cli.plain_exit(go_on=f"python src/train.py resume={output_dir}"):
        return train(cfg, output_dir)


if __name__ == "__main__":
    main()

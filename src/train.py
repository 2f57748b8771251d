"""Train one model: config, data, model, epochs, objective. See conf/train.yaml and --help."""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

os.environ.setdefault("HYDRASWEEP_ROOT", str(Path(__file__).resolve().parents[1]))

from mnist import cli, config, search
from hydrasweep.search import trial


def train(cfg: DictConfig, output_dir: Path) -> float | list[float]:
    """Train as ``cfg`` says, going on where ``output_dir`` has a state; give the objective."""
    config.check(cfg)
    from mnist import assembly, display, outcome, tracking
    from mnist.training import Meter, fit

    job = assembly.assemble(cfg)
    training, objectives, sweep = job.training, config.objectives(cfg), trial.current()
    state = output_dir / "last.pt"
    if state.exists():
        training.load(state)
    about = outcome.describe(cfg, job.data, training, output_dir)
    metrics: dict[str, float] = {}
    try:
        with config.build(cfg.tracking).run(output_dir, about) as run, cli.heeding_signals():
            display.log.info(display.header(about, output_dir))
            meter = Meter()
            epochs = fit(
                training, job.train, job.val, epochs=cfg.epochs, batch_size=cfg.data.batch_size,
                smoothing=cfg.label_smoothing, meter=meter,
            )  # fmt: skip
            for metrics in display.with_bar(epochs, meter, cfg.data.batch_size):
                run.log(metrics, step=training.epoch)
                display.log.info(display.epoch_line(training.epoch, cfg.epochs, metrics))
                if cfg.checkpoint:
                    training.save(state)
                cli.end_if_asked()
                sweep.report(metrics, objectives, training.epoch)
                if training.epoch < cfg.epochs and sweep.should_prune():
                    raise tracking.StoppedEarly(sweep.reason(), training.epoch)
            metrics = outcome.conclude(cfg, job.data, training, job.val, run)
        display.log.info(display.footer(metrics, run, cfg.paths.root))
    except tracking.StoppedEarly as stop:
        display.log.info(str(stop))
    values = [metrics[name] for name in objectives]
    return values[0] if len(values) == 1 else values


@hydra.main(config_path="../conf", config_name="train", execution_whitelist=config.TRUSTED)
def main(cfg: DictConfig) -> float | list[float]:
    if trial.current().in_sweep:
        return train(*config.started(cfg, trial.current().is_final))
    with cli.plain_exit():
        cfg, output_dir = config.started(cfg)
    with cli.plain_exit(go_on=f"python src/train.py resume={output_dir}"):
        return train(cfg, output_dir)


if __name__ == "__main__":
    with cli.prompt_end(), cli.plain_exit():
        search.register()
        main()

"""Train one model: config, data, model, epochs, objective. See conf/train.yaml and --help."""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

import hydrasweep
from mnist import config, store, threads

os.environ.setdefault("HYDRASWEEP_ROOT", str(Path(__file__).resolve().parents[1]))


def train(cfg: DictConfig, output_dir: Path) -> float | list[float]:
    """Train as ``cfg`` says, from the checkpoint in ``output_dir`` if there is one; return the
    objective, or several."""
    config.check(cfg)
    from mnist import display, outcome
    from mnist.assembly import assemble
    from mnist.training import fit

    job = assemble(cfg)
    training, objectives = job.training, config.objectives(cfg)
    if (checkpoint := output_dir / "last.pt").exists():
        training.load(checkpoint)
    about = outcome.describe(cfg, job, output_dir)
    with config.build(cfg.tracking).run(output_dir, about) as run:
        display.log.info(display.header(about, job, run))
        metrics = run.history.get(training.epoch, {}) | outcome.totals(training)
        epochs = fit(
            training, job.train, job.val,
            epochs=cfg.epochs, batch_size=cfg.data.batch_size, watch=display.bar,
        )  # fmt: skip
        while True:
            # First of all an epoch that was saved, and perhaps not reported.
            stop = training.epoch and hydrasweep.report(metrics[objectives[0]], training.epoch)
            if stop and training.epoch < cfg.epochs:
                display.log.info("Stopped by the sweep's pruner")
                return metrics[objectives[0]]
            if (epoch := next(epochs, None)) is None:
                break
            run.log(epoch, step=training.epoch)
            display.log.info(display.epoch_line(training.epoch, cfg.epochs, epoch, job))
            if cfg.checkpoint:
                training.save(checkpoint)
            metrics |= epoch
        once = outcome.conclude(cfg, job, run)
        hydrasweep.record(**once)
        metrics |= once
    display.log.info(display.footer(metrics, job, run))
    values = [metrics[name] for name in objectives]
    return values[0] if len(values) == 1 else values


@hydra.main(config_path="../conf", config_name="train", execution_whitelist=config.TRUSTED)
def main(cfg: DictConfig) -> float | list[float]:
    threads.look()
    if config.is_in_sweep():
        return train(*config.resolve_run(cfg))
    with hydrasweep.plain_exit():
        cfg, output_dir = config.resolve_run(cfg)
    with hydrasweep.plain_exit(resume=f"python src/train.py resume={output_dir}"):
        return train(cfg, output_dir)


if __name__ == "__main__":
    with hydrasweep.plain_exit():
        store.use(Path(os.environ["HYDRASWEEP_ROOT"]))
        main()

"""Two spirals, told apart by a small network in a training loop of one's own."""

import hydra
import mlflow
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import hydrasweep


def spirals(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    arm = torch.arange(n) % 2
    radius = 6 * torch.rand(n, generator=generator)
    angle = radius + torch.pi * arm
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return points + 0.1 * torch.randn(n, 2, generator=generator), arm


@hydra.main(config_path="conf", config_name="config", execution_whitelist="torch.optim.*")
def main(cfg: DictConfig) -> float:
    torch.manual_seed(cfg.seed)
    torch.set_num_threads(1)  # more are slower for a network of this size
    x, y = spirals(1000, seed=0)
    x_val, y_val = spirals(500, seed=1)
    width = cfg.width
    model = nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)
    )
    optimizer = instantiate(cfg.optimizer, model.parameters())

    with mlflow.start_run():
        mlflow.log_params({"lr": cfg.optimizer.lr, "width": width})
        for epoch in range(cfg.epochs):
            for batch in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                logits = model(x_val)
            loss = cross_entropy(logits, y_val).item()
            mlflow.log_metric("val/loss", loss, step=epoch)
            if hydrasweep.report(loss, epoch):
                break
        accuracy = (logits.argmax(1) == y_val).float().mean().item()
        mlflow.log_metric("val/accuracy", accuracy)
    hydrasweep.record(**{"val/accuracy": accuracy})
    return loss


if __name__ == "__main__":
    main()

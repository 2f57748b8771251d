"""Two spirals, told apart by a small network in a training loop of one's own."""

import hydra
import mlflow
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

import hydrasweep


def spirals(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    angle = 6 * torch.rand(n, generator=generator)
    arm = torch.arange(n) % 2
    turned = angle + torch.pi * arm
    points = torch.stack([angle * turned.cos(), angle * turned.sin()], dim=1)
    return points + 0.1 * torch.randn(n, 2, generator=generator), arm


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg: DictConfig) -> float:
    torch.manual_seed(cfg.seed)
    torch.set_num_threads(1)
    x, y = spirals(1000, seed=0)
    x_val, y_val = spirals(500, seed=1)
    model = nn.Sequential(
        nn.Linear(2, cfg.n_hidden), nn.Tanh(),
        nn.Linear(cfg.n_hidden, cfg.n_hidden), nn.Tanh(),
        nn.Linear(cfg.n_hidden, 2),
    )  # fmt: skip
    optimizer = hydra.utils.instantiate(cfg.optimizer)(model.parameters())
    loss_fn = nn.CrossEntropyLoss()

    with mlflow.start_run():
        mlflow.log_params({"lr": cfg.optimizer.lr, "n_hidden": cfg.n_hidden})
        for epoch in range(cfg.n_epochs):
            for batch in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                loss_fn(model(x[batch]), y[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                logits = model(x_val)
            loss = loss_fn(logits, y_val).item()
            mlflow.log_metric("val/loss", loss, step=epoch)
            if hydrasweep.report(loss, epoch):
                break
        accuracy = (logits.argmax(1) == y_val).float().mean().item()
        mlflow.log_metric("val/accuracy", accuracy)
    hydrasweep.record(**{"val/accuracy": accuracy})
    return loss


if __name__ == "__main__":
    main()

"""A committee: trained models that vote by their mean probabilities."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hydrasweep import UserError
from mnist import store
from mnist.config import build, choices
from mnist.data import Split
from mnist.training import EVALUATION_BATCH

SPLIT = ("name", "n_val", "split_seed")  # settings that say which images are for validation


class Committee(nn.Module):
    """Takes what its members take and gives the logarithms of their mean probabilities
    (n, n_classes)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        votes = [member(inputs).softmax(-1) for member in self.members]
        return torch.stack(votes).mean(0).log()


@dataclass(frozen=True)
class Member:
    """A trained model, from raw inputs to logits, of an architecture."""

    architecture: str
    model: nn.Module


def load_members(folders: Iterable[Path]) -> tuple[list[Member], DictConfig]:
    """The models that runs left in their folders, and the settings of their data.

    Raises:
        UserError: one left none, or they were trained on different images, so that one's
            validation images may be another's training images.
    """
    members: list[Member] = []
    data: dict[Path, DictConfig] = {}
    for folder in folders:
        if not (folder / "model.pt").exists():
            raise UserError(
                f"{folder}: holds no model.pt: its run kept none (artifacts=true keeps it)"
            )
        cfg = DictConfig(OmegaConf.load(folder / "config.yaml"))
        model = build(cfg.model)
        model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        whole = nn.Sequential(build(cfg.data).normalize(), model)
        members.append(Member(choices(cfg, folder)["model"], whole.eval()))
        data[folder] = cfg.data
    first, settings = next(iter(data.items()))
    for folder, other in data.items():
        if differ := [key for key in SPLIT if settings.get(key) != other.get(key)]:
            raise UserError(
                f"{folder} and {first} differ in data.{differ[0]}: what one was validated on, "
                "another may have been trained on"
            )
    return members, settings


def score(model: nn.Module, split: Split) -> float:
    """The accuracy of a model on raw inputs."""
    return accuracy(outputs(model, split), split)


@torch.inference_mode()
def outputs(model: nn.Module, split: Split) -> Tensor:
    """A model's output for every row (n, n_classes)."""
    return torch.cat([model(inputs) for inputs in split.inputs.split(EVALUATION_BATCH)])


def accuracy(probabilities: Tensor, split: Split) -> float:
    """The share of rows whose most probable class is theirs."""
    return float((probabilities.argmax(1) == split.targets).float().mean())


def choose(members: Sequence[Member], val: Split) -> tuple[list[Member], dict[str, float]]:
    """The members of those architectures that score best together on ``val``, the fewest of
    equals; and what each set of architectures scores."""
    votes = {id(each): outputs(each.model, val).softmax(-1) for each in members}
    names = list(dict.fromkeys(each.architecture for each in members))
    sets = chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1))
    scores: dict[tuple[str, ...], float] = {}
    for chosen in sets:
        of = [votes[id(each)] for each in members if each.architecture in chosen]
        scores[chosen] = accuracy(torch.stack(of).mean(0), val)
    best = max(scores, key=lambda chosen: (scores[chosen], -len(chosen)))
    told = {" + ".join(chosen): score for chosen, score in scores.items()}
    return [each for each in members if each.architecture in best], told


def milliseconds(model: nn.Module, split: Split) -> float:
    """What a row takes, in batches as they are evaluated."""
    inputs = split.inputs[:EVALUATION_BATCH]
    with torch.inference_mode():
        model(inputs)
        began = time.perf_counter()
        model(inputs)
    return 1000 * (time.perf_counter() - began) / len(inputs)


def register(
    mlflow: Any, model: nn.Module, name: str, example: Tensor, scores: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:  # fmt: skip
    """Record a committee as a run of its own and register it, as champion where no version with a
    better score of the same images is; in words, what became of it."""
    with mlflow.start_run(run_name=name, tags=dict(tags)):
        mlflow.log_metrics(dict(scores))
        logged = store.log_model(mlflow, model, example.numpy(), register_as=name)
    number, client = str(logged.registered_model_version), mlflow.MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)
    champion = client.get_registered_model(name).aliases.get("champion")
    best = client.get_model_version(name, champion).tags if champion else {}
    are_alike = all(best.get(key) == tags[key] for key in SPLIT[1:])
    if are_alike and float(best["score"]) > float(tags["score"]):
        return f"version {number} stays behind the champion"
    client.set_registered_model_alias(name, "champion", number)
    return f"version {number} is the champion now"

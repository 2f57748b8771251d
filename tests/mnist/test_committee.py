"""Committees: which models vote, and on which images they can be compared."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from hydrasweep import UserError
from mnist import committee, config
from mnist.committee import Committee, Member
from mnist.data import Split


class Predicts(nn.Module):
    """Predicts the given class for each row, with the same confidence."""

    def __init__(self, *classes, confidence=3.0):
        super().__init__()
        self.logits = confidence * torch.eye(3)[list(classes)]

    def forward(self, inputs):
        return self.logits[: len(inputs)]


def untrained(folder, compose, *overrides):
    """The folder of a run whose model is untrained."""
    cfg = compose("model=baseline", *overrides)
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    torch.save(config.build(cfg.model).state_dict(), folder / "model.pt")
    return folder


def test_committee_returns_the_logarithms_of_its_members_mean_probabilities():
    members = Predicts(0, 1), Predicts(2, 1, confidence=1.0)
    probabilities = Committee(members)(torch.zeros(2, 4)).exp()
    torch.testing.assert_close(probabilities, sum(m.logits.softmax(1) for m in members) / 2)
    assert probabilities.argmax(1).tolist() == [0, 1]


def test_chosen_members_are_the_best_together_and_the_fewest_of_equals():
    val = Split(torch.zeros(4, 1), torch.tensor([0, 1, 2, 0]))
    a = Member("a", Predicts(0, 1, 2, 1))  # each alone misses one
    b = Member("b", Predicts(0, 1, 1, 0, confidence=4.0))
    c = Member("c", Predicts(0, 0, 0, 1))  # improves no committee
    best, scores = committee.choose([c, a, b], val)
    assert scores["a"] == scores["b"] == 0.75
    assert scores["c"] == 0.25
    assert max(scores.values()) == 0.75
    assert [each.architecture for each in best] == ["a"]
    more_certain = Member("a", Predicts(0, 1, 2, 0, confidence=9.0))
    best, scores = committee.choose([c, a, more_certain, b], val)
    assert scores["a"] == 1
    assert best == [a, more_certain]


def test_members_are_rebuilt_from_their_runs_folders(tmp_path, compose):
    folders = [untrained(tmp_path / name, compose, f"seed={i}") for i, name in enumerate("ab")]
    members, data = committee.load_members(folders)
    assert [member.architecture for member in members] == ["baseline"] * 2
    assert data.name == "mnist"
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    cfg = OmegaConf.load(folders[1] / "config.yaml")
    plain = config.build(cfg.model).eval()
    plain.load_state_dict(torch.load(folders[1] / "model.pt"))
    expected = plain(config.build(cfg.data).normalize()(images))
    torch.testing.assert_close(members[1].model(images), expected)


def test_models_validated_on_different_images_are_refused(tmp_path, compose):
    folders = [untrained(tmp_path / f"{i}", compose, f"data.split_seed={i}") for i in range(2)]
    with pytest.raises(UserError, match=r"data\.split_seed"):
        committee.load_members(folders)
    (folders[0] / "model.pt").unlink()
    with pytest.raises(UserError, match=r"0: .*model\.pt"):
        committee.load_members(folders)

"""A YAML file is edited while the sweep runs.

They: prepared the next experiment in the same files while jobs were still waiting.
Source: github.com/facebookresearch/hydra/issues/1945
Right: all trials have the values that the sweep began with.
"""

from collections.abc import Callable
from pathlib import Path

from apps import CONFIG, App


def test_trials_keep_the_values_of_the_sweeps_start(app: Callable[..., App]) -> None:
    body = """
        hydrasweep.record(n=cfg.epochs)
        text = open("conf/config.yaml").read()
        with open("conf/config.yaml", "w") as file:
            file.write(text.replace("epochs: 1", "epochs: 3"))
        return cfg.x
    """
    done = app(body, CONFIG + "epochs: 1\n")(
        "hydra/sweeper/confirm=two_seeds", "hydra.sweeper.confirm.n_seeds=1",
        "hydra.sweeper.n_trials=2",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "epochs: 3" in (done.folder / "conf" / "config.yaml").read_text()
    assert {row["n"] for row in done.table() + done.table("confirmation")} == {"1.0"}


def test_so_do_trials_with_other_combinations_of_files(
    app: Callable[..., App], tmp_path: Path
) -> None:
    body = """
        hydrasweep.record(n=cfg.kind.epochs)
        for name in "abc":
            with open(f"conf/kind/{name}.yaml", "w") as file:
                file.write("epochs: 3")
        return cfg.kind.epochs
    """
    defaults = "defaults:\n  - kind: a\n  - loss: p\n"
    config = CONFIG.replace("kind: a\n", "").replace("defaults:\n", defaults)
    task = app(body, config)
    for group, names in (("kind", "abc"), ("loss", "pq")):
        (tmp_path / "conf" / group).mkdir()
        for name in names:
            (tmp_path / "conf" / group / f"{name}.yaml").write_text("epochs: 1\n")
    done = task("~x", "kind=choice(a,b,c)", "loss=choice(p,q)", "hydra/sweeper/sampler=grid")
    assert done.code == 0, done.err
    assert len({(row["kind"], row["loss"]) for row in done.table()}) == 6
    assert {row["n"] for row in done.table()} == {"1.0"}

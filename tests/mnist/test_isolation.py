"""What torch keeps in a process does not reach the next trial."""

import apps

COMPILES = """
    n_compiled = 0

    def backend(module, inputs):
        nonlocal n_compiled
        n_compiled += 1
        return module.forward

    width = 1 + hydrasweep.trial().number
    torch.compile(torch.nn.Linear(width, 1), backend=backend)(torch.zeros(1, width))
    hydrasweep.record(n_compiled=n_compiled)
    return cfg.x
"""


def test_models_of_all_trials_are_compiled(tmp_path):
    """In one process torch compiles the same code about eight times, and then no more."""
    task = apps.write(tmp_path, COMPILES, more="import torch._dynamo")
    done = task("hydra.sweeper.n_trials=10", code=0)
    assert [row["n_compiled"] for row in done.table()] == ["1.0"] * 10

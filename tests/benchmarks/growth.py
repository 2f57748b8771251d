"""What a trial costs besides its training, late in a study against early in it: seconds.

One architecture, the default sampler and pruner, two workers on SQLite stores.
"""

from overhead import NO_TRAINING, starts_of_trials

EARLY, LATE = (20, 70), (1000, 1050)  # the first ones fall into the start of the workers


def measure() -> list[dict[str, str | float]]:
    starts = starts_of_trials(LATE[1] + 1, "model=lenet5", *NO_TRAINING)
    costs = [(starts[b] - starts[a]).total_seconds() / (b - a) for a, b in (EARLY, LATE)]
    return [
        {"trials": f"{a:,} to {b:,}", "s a trial": cost, "ratio": cost / costs[0]}
        for (a, b), cost in zip((EARLY, LATE), costs, strict=True)
    ]

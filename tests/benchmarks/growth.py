"""What a trial costs besides its training, late in a study against early in it: seconds.

One architecture, the default sampler and pruner, two workers on SQLite stores.
"""

from common import Rows, size
from overhead import NO_TRAINING, starts_of_trials

# The first trials are left out, as workers are still starting then.
EARLY, LATE = size(((20, 70), (1000, 1050)), ((2, 4), (6, 8)))


def measure() -> Rows:
    starts = starts_of_trials(LATE[1] + 1, "model=lenet5", *NO_TRAINING)
    costs = [(starts[b] - starts[a]).total_seconds() / (b - a) for a, b in (EARLY, LATE)]
    return [
        {"trials": f"{a:,} to {b:,}", "s a trial": cost, "ratio": cost / costs[0]}
        for (a, b), cost in zip((EARLY, LATE), costs, strict=True)
    ]

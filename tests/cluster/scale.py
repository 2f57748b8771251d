"""The trials per second of different numbers of workers, on a PostgreSQL of this machine.

python tests/cluster/scale.py        1 to 32 workers, trials of 2 s: about 6 minutes

The trials only sleep. Those count that begin after every worker has begun its second trial. The
storage's time is PostgreSQL's own figure for the statements of a trial, with waits for locks. The
figures are printed and written into scale.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psycopg
from services import PostgreSQL, postgresql

from hydrasweep import output
from hydrasweep.liveness import OWNER
from hydrasweep.storage import database

HERE = Path(__file__).resolve().parent
SECONDS = 2.0
N_EACH = 20  # trials for each worker


def run(server: PostgreSQL, n_workers: int, seconds: float, n_each: int) -> dict[str, float]:
    """Run a sweep with this number of workers and return its figures."""
    name = f"scale{n_workers}"
    url = server.create(name)
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, HERE / "sleeping" / "app.py", "-m", "mlflow=false"]
        words += ["hydra/sweeper/storage=postgresql", f"hydra.sweeper.study_name={name}"]
        words += [f"hydra.sweep.dir={folder}/sweep", f"hydra.sweeper.n_trials={n_each * n_workers}"]
        words += [f"hydra.sweeper.n_workers={n_workers}", f"seconds={seconds}"]
        env = os.environ | {"HYDRASWEEP_STORAGE": url}
        subprocess.run(words, env=env, check=True, stdout=subprocess.DEVNULL)
    storage = database(url)
    begun = defaultdict(list)
    for study in storage.get_all_studies():
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            assert trial.state.name == "COMPLETE"
            assert trial.datetime_start
            begun[trial.user_attrs[OWNER]["pid"]].append(trial.datetime_start.timestamp())
    storage.engine.dispose()
    assert len(begun) == n_workers
    first, last = max(sorted(times)[1] for times in begun.values()), max(map(max, begun.values()))
    starts = [at for times in begun.values() for at in times if first < at <= last]
    with psycopg.connect(server.url("postgres")) as connection:
        row = connection.execute(
            "SELECT active_time, xact_commit FROM pg_stat_database WHERE datname = %s", [name]
        ).fetchone()
    assert row
    n_trials, pace = sum(map(len, begun.values())), len(starts) / (last - first)
    return {
        "workers": n_workers,
        "trials": n_trials,
        "counted": len(starts),
        "trials_per_second": round(pace, 3),
        "of_ideal_%": round(100 * pace * seconds / n_workers, 1),
        "ms_beside_the_sleep": round(1000 * (n_workers / pace - seconds)),
        "storage_ms_per_trial": round(row[0] / n_trials, 1),
        "transactions_per_trial": round(row[1] / n_trials, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--each", type=int, default=N_EACH, help="trials for each worker")
    given = parser.parse_args()
    rows = []
    with postgresql() as server:
        for n_workers in given.workers:
            rows.append(run(server, n_workers, given.seconds, given.each))
            print(rows[-1], flush=True)
    kept = {"date": time.strftime("%Y-%m-%d"), "seconds_of_a_trial": given.seconds}
    kept |= {"machine": output.environment(), "rows": rows}
    (HERE / "scale.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()

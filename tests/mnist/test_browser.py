"""Reports and the pages of MLflow's UI that a sweep and a run link to, in headless Chromium."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import apps
import pytest
from application import copy_store, server
from planted import plant, searched, with_seeds
from sweeps import MODELS

from hydrasweep.page import compare, write
from hydrasweep.storage import close_storages
from hydrasweep.trials import SEARCH

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed"),
]

LOCAL = "http://127.0.0.1:5000"  # where the README starts MLflow's UI
Page = Callable[[str], str]


def chromium(folder, url, *more):
    """The command that opens a page."""
    words = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    words += " --disable-background-networking --disable-component-update --disable-sync"
    # A profile of its own: the UI remembers the last page's filter.
    words += f" --user-data-dir={tempfile.mkdtemp(dir=folder)} --window-size=1600,1200"
    return ["chromium", *words.split(), *more, url]


@pytest.fixture
def page(tmp_path):
    """``page(url)`` returns a page's HTML after its scripts have run in Chromium."""

    def shown(url):
        command = chromium(tmp_path, url, "--virtual-time-budget=60000", "--dump-dom")
        return subprocess.run(command, text=True, capture_output=True, timeout=180).stdout

    return shown


@contextmanager
def started(*command, cwd):
    """Run a process and kill it and its children at the end of the block."""
    process = subprocess.Popen(
        [*map(str, command)], cwd=cwd, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def running(tmp_path):
    """A running sweep of four trials. Each ends when a file with its number exists."""
    body = """
        while not os.path.exists(str(hydrasweep.trial().number)):
            time.sleep(0.1)
        return cfg.x
    """
    apps.write(tmp_path, body)
    with started(sys.executable, "app.py", "-m", apps.SQLITE, cwd=tmp_path) as process:
        while not (tmp_path / "sweep" / "results.yaml").exists():
            assert process.poll() is None
            time.sleep(0.1)
        yield process


@pytest.fixture
def served(tmp_path):
    """The address of a server of the test's folder, and the reports that were fetched there."""
    pages: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.endswith("report.html"):
                pages.append((tmp_path / self.path[1:]).read_text())
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", pages
    server.shutdown()
    server.server_close()


def architectures(html):
    """The architectures of the trials whose names are on a page."""
    return set(re.findall(r"\b(baseline|lenet5)-\d{3}\b", html))


@pytest.mark.timeout(600)
def test_mlflow_pages_compare_the_trials_of_a_sweep(sweep, script, page, root):
    copy_store(sweep.root / "mlflow.db", root)
    done = script("train.py", "model=baseline", "epochs=1", "artifacts=false", "seed=7")
    assert done.returncode == 0, done.stderr
    links = [
        re.findall(rf"{LOCAL}[^\s\"]+", text)[0]
        for text in (unescape((sweep.folder / "mlflow.html").read_text()), done.stdout)
    ]
    trials = sweep.runs_in(SEARCH).values()
    (experiment,) = {run.info.experiment_id for run in trials}
    ids, experiments = (
        quote(json.dumps(each)) for each in ([run.info.run_id for run in trials], [experiment])
    )
    with server(root, f"sqlite:///{root / 'mlflow.db'}") as (port, _):
        address = f"http://127.0.0.1:{port}"
        charts, run = (page(link.replace(LOCAL, address)) for link in links)
        compared = page(f"{address}/#/compare-runs?runs={ids}&experiments={experiments}")
    assert architectures(charts) == set(MODELS)
    assert "sweep whole" not in charts  # the parent is no trial
    assert "val/accuracy" in charts
    assert "baseline lr=0.003" in run
    assert "test/accuracy" in run
    assert architectures(compared) == set(MODELS)
    assert "optimizer.lr" in compared


WATCH = """<script>
  const seen = document.documentElement.dataset;
  addEventListener("error", e => seen.error = e.message || e.target.outerHTML, true);
  addEventListener("load", () => seen.loaded = performance.getEntriesByType("resource")
    .filter(entry => !entry.name.startsWith("data:")).length);
</script>"""


def test_reports_draw_all_figures_without_a_network(page, tmp_path):
    trials = searched(30)  # importances need this many
    phases = {
        f"@{phase}/cnn": with_seeds(trials[4], [0.9, 0.91], 20) for phase in ("confirm", "final")
    }
    folder = plant(tmp_path / "drawn", {"/cnn": trials, "/lenet5": trials[:20], **phases})
    paths = write(folder), compare([folder, folder])
    close_storages()
    for path in paths:
        watched = path.with_name("watched.html")
        watched.write_text(path.read_text().replace("<head>", f"<head>{WATCH}"))
        shown = page(f"file://{watched}")
        (root,) = re.findall(r"<html[^>]*>", shown)
        assert 'data-loaded="0"' in root
        assert "data-error" not in root, root
        shown = re.sub(
            "<template>.*?</template>", "", shown, flags=re.DOTALL
        )  # drawn after a click
        n_figures = shown.count('class="plotly-graph-div')
        assert n_figures == (7 if path.name == "report.html" else 1)
        drawn = re.findall(
            r'class="plotly-graph-div.*?class="main-svg.*?class="infolayer', shown, re.DOTALL
        )
        assert len(drawn) == n_figures


def test_click_on_a_column_head_sorts_the_trials(page, tmp_path):
    path = write(plant(tmp_path / "sorted", {"/cnn": searched(12)}))
    close_storages()
    values = {}
    for n_clicks in (1, 2):
        click = "document.querySelectorAll('.sortable th')[2].click();" * n_clicks
        clicked = path.with_name(f"{n_clicks}.html")
        clicked.write_text(path.read_text().replace("</body>", f"<script>{click}</script></body>"))
        (body,) = re.findall(
            r'class="sortable".*?<tbody>(.*?)</tbody>', page(f"file://{clicked}"), re.DOTALL
        )
        rows = [
            re.findall(r"<td>(.*?)</td>", row)
            for row in re.findall("<tr>.*?</tr>", body, re.DOTALL)
        ]
        values[n_clicks] = [float(row[2]) for row in rows]
    assert values[1] == sorted(values[1])
    assert values[2] == values[1][::-1] != values[1]


def ended(html):
    """The number of ended trials in a report."""
    (n,) = re.findall(r"search (\d+) of 4", html)
    return int(n)


def test_watched_report_reloads_while_the_sweep_runs(running, served, tmp_path):
    address, pages = served
    watch = (sys.executable, "-m", "hydrasweep", "report", "s", "--watch")
    with started(*watch, cwd=tmp_path) as watching:
        assert watching.stdout is not None
        assert "sweep/report.html" in watching.stdout.readline()
        command = chromium(tmp_path, f"{address}/sweep/report.html", "--remote-debugging-port=0")
        with started(*command, cwd=tmp_path):
            for n in range(3):
                while not pages or ended(pages[-1]) < n:
                    assert running.poll() is None
                    time.sleep(0.1)
                (tmp_path / str(n)).touch()
            assert {ended(html) for html in pages} == {0, 1, 2}
        (tmp_path / "3").touch()
        assert running.wait() == 0
        assert watching.wait() == 0
    last = (tmp_path / "sweep" / "report.html").read_text()
    assert "location.reload()" in pages[-1]
    assert "location.reload()" not in last
    assert ended(last) == 4


def test_dashboard_opens_the_storage_of_a_running_sweep(running, page, tmp_path):
    (tmp_path / "0").touch()
    while not (tmp_path / "sweep" / "001").exists():
        assert running.poll() is None
        time.sleep(0.1)
    program = Path(sys.executable).with_name("optuna-dashboard")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started(program, "sqlite:///sweep/study.db", "--port", port, cwd=tmp_path) as dashboard:
        for _ in range(300):
            assert dashboard.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        shown = page(f"http://127.0.0.1:{port}/dashboard/studies/1/trials")
    assert running.poll() is None
    assert re.search(r"Complete", shown)
    assert re.search(r"Running", shown)
    for n in range(1, 4):
        (tmp_path / str(n)).touch()
    assert running.wait() == 0

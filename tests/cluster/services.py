"""Servers on loopback with all their files in temporary folders: PostgreSQL, a Slurm and a Ray of
one node each, and machines that share nothing but these."""

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

psycopg = pytest.importorskip("psycopg", reason='needs the extras ".[postgres,slurm,ray]"')

PASSWORD = "hush@4711secret"
TELLTALE = "4711secret"  # this part of the password is never quoted
SECONDS_TO_START = 60


def installed(command: str, *packages: str) -> str:
    """The path of a command from Debian's packages."""
    if found := _which(command):
        return found
    if os.geteuid() or not shutil.which("apt-get"):
        pytest.skip(f"{command} is missing, and only root on Debian can install it")
    _update_lists()
    quiet = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "RUNLEVEL": "1",
    }  # no package starts its server
    words = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    subprocess.run(words, check=True, env=quiet, stdout=subprocess.DEVNULL)
    return str(_which(command))


def _which(command: str) -> str | None:
    own = sorted(Path("/usr/lib/postgresql").glob("*/bin"))  # not on Debian's PATH
    return shutil.which(
        command, path=os.pathsep.join(["/usr/sbin", os.environ["PATH"], *map(str, own)])
    )


@functools.cache
def _update_lists() -> None:
    subprocess.run(["apt-get", "update"], check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def machine(name: str) -> list[str]:
    """The words before a command that run it on a machine of this name: it sees only its own
    processes, and killing it kills all of them."""
    words = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words += ["sh", "-c", 'hostname "$0" && exec "$@"', name]
    tried = subprocess.run([*words, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"cannot make namespaces: {tried.stderr.strip()}")
    return words


@contextmanager
def folder_of(user: str | None = None) -> Iterator[Path]:
    """A folder that other users can reach, and with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hs") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if user:
            shutil.chown(folder, user)
        yield folder


@contextmanager
def service(
    folder: Path, words: Sequence[str], answers: Callable[[], bool], **settings: Any
) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a process, wait until it answers, and kill it at the end of the block."""
    log = folder / f"{Path(words[0]).name}-{len(list(folder.iterdir()))}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, start_new_session=True, **settings
        )
    try:
        until = time.monotonic() + SECONDS_TO_START
        while not answers():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{words} does not answer:\n{log.read_text()}")
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


class PostgreSQL:
    """A server that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.program = installed("postgres", "postgresql")
        (folder / "password").write_text(PASSWORD)
        self._run("initdb", "-U", "sweeper", "-A", "scram-sha-256", "--pwfile", folder / "password")
        self._stack = ExitStack()

    def _run(self, command: str, *words: Any) -> None:
        program = Path(self.program).with_name(command)
        subprocess.run(
            [program, "-D", self.folder / "data", *words],
            cwd=self.folder, user="postgres", check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        words = [self.program, "-D", f"{self.folder}/data", "-k", str(self.folder)]
        words += ["-h", "127.0.0.1", "-p", str(self.port)]
        running = service(self.folder, words, self._answers, cwd=self.folder, user="postgres")
        self._stack.enter_context(running)

    def stop(self, mode: str) -> None:
        """Stop in one of the modes of pg_ctl."""
        self._run("pg_ctl", "stop", "-m", mode)
        self._stack.close()

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(self.url("postgres")):
            return True
        return False

    def create(self, database: str) -> str:
        """Create a database and return its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')  # type: ignore[arg-type]
        return self.url(database)

    def url(self, database: str) -> str:
        password = quote(PASSWORD, safe="")
        return f"postgresql://sweeper:{password}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    installed("postgres", "postgresql")  # the package creates the user
    with folder_of("postgres") as folder:
        server = PostgreSQL(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


SLURM = """\
ClusterName=tests
SlurmUser=root
SlurmctldHost=localhost
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={folder}/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName=node NodeAddr=127.0.0.1 NodeHostname=node CPUs=2
PartitionName=main Nodes=node Default=YES
"""
SLURMDBD = """\
DbdHost=localhost
DbdPort={dbd}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=root
PidFile={folder}/slurmdbd.pid
"""


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Run Slurm with a node of two cores; yield the environment variables with which processes
    use it. Without its accounting, submitit would not notice that a job was killed."""
    packages = ("slurm-wlm", "slurmdbd", "munge", "mariadb-server-core", "mariadb-client-core")
    programs = "slurmctld", "slurmdbd", "slurmd", "munged", "mariadbd", "mariadb-install-db"
    ctld, dbd, slurmd, munged, mariadbd, install = (installed(p, *packages) for p in programs)
    installed("my_print_defaults", *packages)  # which mariadb-install-db calls
    names = "ctld", "dbd", "slurmd", "mariadb"
    ports = {name: free_port() for name in names}
    with folder_of() as folder, ExitStack() as stack:
        conf = {"SLURM_CONF": f"{folder}/slurm.conf"}
        settings: dict[str, Any] = {"env": os.environ | conf}
        (folder / "slurm.conf").write_text(SLURM.format(folder=folder, **ports))
        (folder / "slurmdbd.conf").write_text(SLURMDBD.format(folder=folder, **ports))
        (folder / "slurmdbd.conf").chmod(0o600)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)

        def start(answers: Callable[[], bool], *words: str) -> None:
            stack.enter_context(service(folder, words, answers, **settings))

        data = ("--no-defaults", "--user=root", f"--datadir={folder}/mariadb")
        subprocess.run([install, *data], check=True, capture_output=True)
        start(
            lambda: listens(ports["mariadb"]),
            *(mariadbd, *data, "--skip-grant-tables", "--bind-address=127.0.0.1"),
            *(f"--port={ports['mariadb']}", f"--socket={folder}/mariadb.socket"),
        )
        start(
            (folder / "munge").exists,
            *(munged, "--foreground", "--force", f"--key-file={folder}/key"),
            *(f"--socket={folder}/munge", f"--pid-file={folder}/munged.pid"),
            *(f"--seed-file={folder}/seed",),
        )
        start(lambda: listens(ports["dbd"]), dbd, "-D")
        start(lambda: listens(ports["ctld"]), ctld, "-D")
        idle = functools.partial(subprocess.check_output, ["sinfo", "-h", "-o", "%T"], **settings)
        start(lambda: idle() == b"idle\n", *machine("node"), slurmd, "-D", "-N", "node")
        yield conf


@contextmanager
def ray(variables: Mapping[str, str]) -> Iterator[str]:
    """Run Ray on a node of two cores, whose processes have these variables; yield its address."""
    port = free_port()
    program = Path(sys.executable).with_name("ray")
    with folder_of() as folder:
        words = [*machine("raynode"), str(program), "start", "--head", "--block"]
        words += [f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
        words += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}/ray"]
        # Ray asks for a token if another local Ray has left one in the home folder.
        env = os.environ | variables | {"RAY_AUTH_MODE": "disabled"}
        with service(folder, words, lambda: listens(port), env=env):
            yield f"127.0.0.1:{port}"

"""A SLURM cluster of one node for tests, without systemd and without touching the machine's own.

python tests/slurm/cluster.py install                  the Debian packages
python tests/slurm/cluster.py start FOLDER             prints `export SLURM_CONF=...`
python tests/slurm/cluster.py stop FOLDER

Key, configuration, spool, logs and pid files lie in the folder; everything listens on 127.0.0.1.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
ROOT = Path(__file__).resolve().parents[2]
DAEMONS = ("slurmd", "slurmctld", "munged")
CPUS = 4
"""Claimed, whatever the machine has: two jobs of two tasks fit at a time."""

CONFIGURATION = """\
ClusterName=halut-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
SlurmUser={user}
SlurmdUser={user}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=30
PropagateResourceLimits=NONE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    lacking = [name for name in PROGRAMS if program(name) is None]
    return f"SLURM is not installed: no {', '.join(lacking)}" if lacking else None


def program(name: str) -> str | None:
    """Where a daemon or command is, /usr/sbin included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def install() -> None:
    """Install Debian's packages; needs root. Their own services are not started by this."""
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, check=True)


class Cluster:
    """Start and stop of the cluster that lives in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @property
    def environment(self) -> dict[str, str]:
        """What commands need to find this cluster and no other."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Bring all daemons up and wait until the node takes jobs."""
        for part in ("state", "spool"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        controller_port, daemon_port = free_ports(2)
        text = CONFIGURATION.format(
            host=host,
            folder=self.folder,
            user=pwd.getpwuid(os.getuid()).pw_name,
            controller_port=controller_port,
            daemon_port=daemon_port,
            cpus=CPUS,
        )
        (self.folder / "slurm.conf").write_text(text)
        try:
            self._munge()
            self._daemon("slurmctld", "-f", str(self.folder / "slurm.conf"))
            self._daemon("slurmd", "-f", str(self.folder / "slurm.conf"), "-N", host)
            self._wait_for("an idle node", lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))
        except BaseException:
            self.stop()
            raise

    def _munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._daemon(
            "munged",
            "--force",
            "--num-threads=2",
            "--origin=127.0.0.1",
            f"--key-file={key}",
            f"--socket={self.folder / 'munge.socket'}",
            f"--pid-file={self.folder / 'munged.pid'}",
            f"--log-file={self.folder / 'munged.log'}",
            f"--seed-file={self.folder / 'munged.seed'}",
        )

    def _daemon(self, name: str, *arguments: str) -> None:
        actual = program(name)
        assert actual is not None, name
        done = subprocess.run([actual, *arguments], capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{name} did not start: {done.stdout}{done.stderr}")
        self._wait_for(f"{name}'s pid file", lambda: self._pid(name) is not None)

    def ask(self, *command: str) -> str:
        """What a command of the cluster prints; "" if it fails."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **self.environment},
        )
        return done.stdout if done.returncode == 0 else ""

    def _wait_for(self, what: str, there, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not there():
            if time.monotonic() > until:
                logs = "".join(p.read_text()[-2000:] for p in self.folder.glob("*.log"))
                raise RuntimeError(f"no {what} within {seconds} seconds:\n{logs}")
            time.sleep(0.1)

    def _pid(self, name: str) -> int | None:
        """The daemon's process, if its pid file names one that is still this program."""
        try:
            pid = int((self.folder / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if runs(pid, name) else None

    def stop(self) -> None:
        """Cancel all jobs, end every daemon by its pid file, and wait until they are gone."""
        if self._pid("slurmctld") is not None:
            self.ask("scancel", "--user", pwd.getpwuid(os.getuid()).pw_name)
            until = time.monotonic() + 20
            while self.ask("squeue", "-h").strip() and time.monotonic() < until:
                time.sleep(0.2)
        for name in DAEMONS:
            pid = self._pid(name)
            if pid is None:
                continue
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + 15
            while runs(pid, name):  # the pid file goes first
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)


def runs(pid: int, name: str) -> bool:
    """True if the process is there, is this program, and has not ended."""
    try:
        status_lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    status = dict(line.split(":\t", 1) for line in status_lines if ":\t" in line)
    return status.get("Name") == name and not status.get("State", "Z").startswith("Z")


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    match arguments:
        case ["install"]:
            install()
        case ["start", folder]:
            cluster = Cluster(Path(folder))
            cluster.start()
            for name, value in cluster.environment.items():
                print(f"export {name}={value}")
        case ["stop", folder]:
            Cluster(Path(folder)).stop()
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

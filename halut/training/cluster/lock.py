"""Run folder lock: the file run.lock, which a living process keeps fresh.

Locks of the operating system are no use on the network drives of clusters. The file is created by
its owner alone (O_EXCL), names that process, and its time is renewed while the process lives. On
the owner's machine the process itself is asked whether it lives; elsewhere the file's age tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halut.errors import HalutError
from halut.io import TEMPORARY
from halut.training.cluster import slurm
from halut.training.parallel.distributed import broadcast_from_rank0, is_main

LOCK = "run.lock"
TAKING = "run.lock.taking"
"""Held for the moment in which a lock left behind changes hands, so that two cannot take it."""
HEARTBEAT_SECONDS = 20.0
"""Seconds between two renewals."""
STALE_SECONDS = 300.0
"""Seconds without one after which the owner, on another machine, counts as dead."""


class InUse(HalutError):
    """Another run works in the folder, which is not to be touched, not even to note the refusal."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for the length of a run, for all of its ranks. InUse if another run does."""
    lock = Lock(folder)
    broadcast_from_rank0(lock.acquire)
    try:
        yield
    finally:
        if is_main():
            lock.release()


class Lock:
    """The lock of one folder, which is made for it if need be, and removed if it stays empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder.absolute() / LOCK
        self.content = json.dumps({**me(), "token": secrets.token_hex(8)}).encode()
        self._made: list[Path] = []
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, over from an owner that is dead if need be; InUse if it lives."""
        folder = self.path.parent
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if not _create(self.path, self.content):
                self._take_over()
                if (earlier := _held.pop(self.path, None)) is not None:
                    earlier.stop()  # left behind in this very process
        except BaseException:
            self._remove_folders()
            raise
        _held[self.path] = self
        self._beating = threading.Thread(target=self._beat, name=LOCK, daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Give the lock back; nothing if it was taken over."""
        self.stop()
        if _held.get(self.path) is self:
            del _held[self.path]
        with contextlib.suppress(OSError):
            if self._is_mine():
                self.path.unlink()
        self._remove_folders()

    def stop(self) -> None:
        """Renew the lock no more."""
        self._stop.set()
        if self._beating is not None:
            self._beating.join()

    def _take_over(self) -> None:
        starting = InUse(f"{self.folder}: another run is just starting in it")
        taking = self.path.with_name(TAKING)
        if not _create(taking, self.content):
            if _age(taking) < STALE_SECONDS:
                raise starting
            taking.unlink(missing_ok=True)  # its maker died within that moment
            if not _create(taking, self.content):
                raise starting
        try:
            if (refusal := why_not_acquired(self.path)) is not None:
                raise InUse(f"{self.folder} is in use: {refusal}")
            if self.path.exists():
                os.replace(taking, self.path)
                return
            if not _create(self.path, self.content):  # given back, and taken again
                raise starting
        except BaseException:
            taking.unlink(missing_ok=True)
            raise
        taking.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        return self.path.read_bytes() == self.content

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                if not self._is_mine():
                    print(
                        f"error: {self.folder} was taken over by another run while this one stood "
                        "still; this one ends",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(1)  # nothing more may be written
                os.utime(self.path)
            except OSError:
                continue  # a drive that is away for a while; the next beat may reach it

    def _remove_folders(self) -> None:
        with contextlib.suppress(OSError):  # not empty: a run is in it
            for path in self._made:
                path.rmdir()


_held: dict[Path, Lock] = {}


def release(folder: Path) -> None:
    """Give back the lock of `folder`, if this process holds it."""
    lock = _held.get(Path(folder).absolute() / LOCK)
    if lock is not None:
        lock.release()


def me() -> dict[str, Any]:
    """What a lock says of this process: where it runs, which one it is, its job."""
    return {
        "host": platform.node(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "job": slurm.job(),
        "restarts": slurm.restarts(),
    }


def why_not_acquired(path: Path) -> str | None:
    """Why the lock `path` must be respected; None if its owner is dead or gone, or this process.

    A job that was put back into the queue owns what it locked before. A lock that cannot be read
    is respected as long as it is fresh: it may be being written.
    """
    try:
        owner = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        owner = None
    mine, age = me(), _age(path)
    remove = f"if no such process lives, delete {path}"
    if not isinstance(owner, dict) or not isinstance(owner.get("pid"), int):
        return None if age > STALE_SECONDS else f"its {path.name} cannot be read; {remove}"
    pid, host, job = owner["pid"], owner.get("host"), owner.get("job")
    if owner.get("machine") == mine["machine"]:
        alive = started(pid)
        if pid == os.getpid() or alive is None or alive != owner.get("started"):
            return None
        return f"process {pid} runs in it; wait for its end, or give another run_dir"
    before = owner.get("restarts")
    requeued = isinstance(before, int) and before < mine["restarts"]
    if (job is not None and job == mine["job"] and requeued) or age > STALE_SECONDS:
        return None
    job_text = f" (job {job})" if job is not None else ""
    return f"process {pid} on {host}{job_text} was alive {max(age, 0):.0f} seconds ago; {remove}"


def started(pid: int) -> str | None:
    """When a process of this machine was started, None if there is none of that number.

    Numbers are used again, and then the time differs. A process that has ended counts as none.
    """
    if not _PROC.exists():
        try:
            os.kill(pid, 0)
        except PermissionError:
            return ""
        except (OSError, OverflowError):
            return None
        return ""
    try:
        # Behind the name, which may hold anything: state, ..., and the start as the 20th field.
        fields = (_PROC.parent / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


_PROC = Path("/proc/self")


def _machine() -> list[str]:
    """The host's name alone may be shared by containers; boot and process space tell them apart."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return parts


def _create(path: Path, content: bytes) -> bool:
    """Create a file with that content; False if there is one."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _age(path: Path) -> float:
    """Seconds since the file was written or renewed, by the clock of the drive it lies on."""
    probe = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)

"""One run in a folder at a time: who is refused, what is recognized as left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from halut.training.cluster import lock
from halut.training.cluster.lock import LOCK, STALE_SECONDS, TAKING, InUse, Lock, locked, me

QUICK = ("debug=smoke", "debug.traceback=false", "model.options.width=4")


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sleeper():
    """Another living process of this machine."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def owned(folder: Path, age: float = 0.0, **fields) -> Path:
    """A lock as a process with these fields leaves it, last renewed `age` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    path.write_text(json.dumps({**me(), **fields}))
    there = path.stat().st_mtime - age
    os.utime(path, (there, there))
    return path


def elsewhere(**fields):
    return {"host": "node7", "machine": ["node7", "boot", "pid:[1]"], "pid": 4242, **fields}


def taken(folder: Path) -> bool:
    """Whether the folder can be locked now; nothing stays behind."""
    with locked(folder):
        content = json.loads((folder / LOCK).read_text())
        assert content["pid"] == os.getpid()
        assert not (folder / TAKING).exists()
    return not (folder / LOCK).exists()


def test_a_living_process_of_this_machine_keeps_its_lock_without_heartbeats(tmp_path, sleeper):
    owned(tmp_path, 1e6, pid=sleeper.pid, started=lock.started(sleeper.pid))
    with pytest.raises(InUse, match=rf"{tmp_path} is in use: process {sleeper.pid} runs in it"):
        Lock(tmp_path).acquire()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_dead_process_and_a_number_used_again_are_not(tmp_path, sleeper):
    owned(tmp_path, pid=sleeper.pid, started="1")
    assert taken(tmp_path)
    began = lock.started(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    owned(tmp_path, pid=sleeper.pid, started=began)
    assert taken(tmp_path)


def test_an_owner_elsewhere_is_respected_while_it_renews_its_lock(tmp_path):
    path = owned(tmp_path, 20, **elsewhere(job="77"))
    message = rf"process 4242 on node7 \(job 77\) was alive 20 seconds ago.*delete {path}"
    with pytest.raises(InUse, match=message):
        Lock(tmp_path).acquire()
    owned(tmp_path, STALE_SECONDS + 1, **elsewhere())
    assert taken(tmp_path)


def test_containers_with_one_host_name_are_distinguished(tmp_path, sleeper):
    machine = [*me()["machine"][:1], "another boot", "pid:[1]"]
    owned(tmp_path, 20, machine=machine, pid=1)
    with pytest.raises(InUse, match="was alive 20 seconds ago"):
        Lock(tmp_path).acquire()


def test_a_requeued_job_takes_over_what_it_locked_before(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    owned(tmp_path, 20, **elsewhere(job="77", restarts=0))
    with pytest.raises(InUse):  # another step of the job, at the same time
        Lock(tmp_path).acquire()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert taken(tmp_path)
    owned(tmp_path, 20, **elsewhere(job="78", restarts=0))
    with pytest.raises(InUse):
        Lock(tmp_path).acquire()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"pid": "x"}', b'{"pid": null}', b"[" * 100_000],
)
def test_a_lock_that_cannot_be_read_is_respected_while_it_is_fresh(tmp_path, content):
    path = tmp_path / LOCK
    path.write_bytes(content)
    with pytest.raises(InUse, match=f"cannot be read.*delete {path}"):
        Lock(tmp_path).acquire()
    there = path.stat().st_mtime - STALE_SECONDS - 1
    os.utime(path, (there, there))
    assert taken(tmp_path)


@pytest.mark.parametrize("pid", [10**30, -1, 0])
def test_numbers_that_no_process_can_have(tmp_path, pid):
    owned(tmp_path, pid=pid)
    assert taken(tmp_path)


def test_of_many_that_find_a_lock_left_behind_one_gets_it(tmp_path, monkeypatch):
    """Each as a machine of its own, all at the same moment."""
    owned(tmp_path, STALE_SECONDS + 1, **elsewhere())
    locks = [Lock(tmp_path) for _ in range(8)]
    start, winners, refused = threading.Barrier(len(locks)), [], []
    monkeypatch.setattr(lock, "me", lambda: {**me(), **elsewhere(machine=["none"])})

    def compete(one: Lock) -> None:
        one.content = json.dumps({**elsewhere(), "token": id(one)}).encode()
        start.wait()
        try:
            one.acquire()
            winners.append(one)
        except InUse:
            refused.append(one)

    threads = [threading.Thread(target=compete, args=(one,)) for one in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(winners), len(refused)) == (1, len(locks) - 1)
    assert (tmp_path / LOCK).read_bytes() == winners[0].content
    winners[0].release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_lock_is_renewed_and_one_taken_over_ends_the_process(tmp_path):
    program = f"""
import json, sys, time
from pathlib import Path
from halut.training.cluster import lock
lock.BEAT = 0.01
held = lock.Lock(Path({str(tmp_path)!r}))
held.acquire()
print("held", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        path = tmp_path / LOCK
        os.utime(path, (1, 1))
        while path.stat().st_mtime == 1:  # the test ends by its renewal, or by pytest's patience
            assert process.poll() is None
        os.replace(owned(tmp_path / "other", **elsewhere()), path)
        assert process.wait() == 1
        assert "was taken over by another run" in process.stderr.read()
        assert json.loads(path.read_text())["host"] == "node7"
    finally:
        process.kill()
        process.wait()


def test_folders_made_for_the_lock_go_with_it(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["kept"]


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path, sleeper):
    """A folder in which another process of this machine runs."""
    owned(tmp_path / "run", pid=sleeper.pid, started=lock.started(sleeper.pid))
    return tmp_path / "run"


def test_a_second_run_is_refused_in_one_line_and_touches_nothing(train, busy):
    outcome = train(*QUICK, f"run_dir={busy}")
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {busy} is in use: process ")
    assert len(outcome.err.splitlines()) == 1
    assert [path.name for path in busy.iterdir()] == [LOCK]


def test_a_second_sweep_and_a_value_in_use_are_refused(train, busy, tmp_path):
    outcome = train("-m", *QUICK, "halut.K=4,8", f"run_dir={busy}")
    assert outcome.code == 1
    assert f"error: {busy} is in use" in outcome.err
    assert [path.name for path in busy.iterdir()] == [LOCK]
    value = tmp_path / "sweep" / "halut.K=4"
    value.parent.mkdir()
    busy.rename(value)
    outcome = train("-m", *QUICK, "policy.only=[stack3.conv2]", "halut.K=4,8", "ptq=none",
                    "baseline=false", "results=null", f"run_dir={value.parent}")  # fmt: skip
    assert outcome.code == 0, outcome.err  # the other value is finished, this one may yet be
    assert "error: halut.K=4: " in outcome.err
    assert [path.name for path in value.iterdir()] == [LOCK]
    assert (value.parent / "halut.K=8" / "report.json").exists()
    assert not (value.parent / LOCK).exists()


def test_a_run_holds_its_folder_to_its_end_and_leaves_no_lock(train, tmp_path, monkeypatch):
    from halut.training import exact_network, report

    seen = []
    for module, name in ((exact_network, "save_network"), (report, "site_figures")):
        original = getattr(module, name)

        def wrapped(*args, original=original):
            with torch.no_grad():
                seen.append(json.loads((tmp_path / "run" / LOCK).read_text())["pid"])
            return original(*args)

        monkeypatch.setattr(module, name, wrapped)
    run = f"run_dir={tmp_path / 'run'}"
    options = (*QUICK, "policy.only=[stack3.conv2]", "ptq=none", "baseline=false", run)
    assert train(*options).code == 0
    assert seen == [os.getpid()] * 2
    assert not (tmp_path / "run" / LOCK).exists()
    (tmp_path / "run").chmod(0o500)
    outcome = train(*options)
    assert (outcome.code, "is finished already" in outcome.out) == (0, True)

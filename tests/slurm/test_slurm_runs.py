"""Runs on a real SLURM: two tasks, requeues, a lost rank, a sweep. All on one node, by gloo."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.slurm.cluster import ROOT, Cluster, runs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

OPTIONS = (
    "model.options.width=4",
    "data.train_samples=512",
    "data.batch_size=32",
    "policy.only=[stack2.conv1,stack3.conv1]",
    "base.epochs=2",
    "schedule.epochs=2",
    "capture.samples=256",
    "capture.rows=1024",
    "recalibrate=2",
    "baseline=false",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "trainer.checkpoint_every=5",
    "logger.every=1",
)
TWO = "--ntasks-per-node=2"
BREAK = "--kill-on-bad-exit=1"


def command(run: Path, *more: str) -> str:
    cache = run.parent / "cache"
    train = [sys.executable, "train.py", "trainer=slurm", *OPTIONS]
    return shlex.join([*train, f"run_dir={run}", f"base.cache={cache}", *more])


def bundle(run: Path) -> dict[str, bytes]:
    state = load_file(run / "bundle" / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def report(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def check_ranks_agreed(run: Path, ranks: int) -> None:
    """The digests of all ranks' weights after every stage."""
    for stage in sorted(run.glob("stage_*")):
        digests = json.loads((stage / "stage.json").read_text())["digests"]
        assert len(digests) == ranks
        assert len(set(digests)) == 1


@pytest.fixture(scope="module")
def two(jobs) -> Path:
    """An undisturbed run of two tasks; its base network is the others' too."""
    run = jobs.folder / "two"
    job = jobs.submit("two", f"srun {BREAK} {command(run)}", TWO)
    assert jobs.finished(job, "two") == "COMPLETED", jobs.said("two")
    return run


def test_two_tasks_are_one_process_within_noise(jobs, two):
    run = jobs.folder / "one"
    job = jobs.submit("one", f"srun {command(run)}", "--ntasks-per-node=1")
    assert jobs.finished(job, "one") == "COMPLETED", jobs.said("one")
    check_ranks_agreed(two, 2)
    check_ranks_agreed(run, 1)
    assert report(two)["environment"]["processes"] == 2
    assert jobs.said("two").count("everything is in") == 1  # one rank speaks
    # Capture and learning are shared out, and exactly what one process does.
    one, both = (load_file(path / "stage_00" / "swapped.safetensors") for path in (run, two))
    assert one.keys() == both.keys()
    assert all(one[name].equal(both[name]) for name in one)
    accuracies = [report(path)["final"]["test_accuracy"] for path in (run, two)]
    assert min(accuracies) > 30  # of ten classes


def test_cancelled_by_a_signal_it_requeues_itself_and_ends_as_if_undisturbed(jobs, two):
    run, name = jobs.folder / "signaled", "signaled"
    train = command(run, "logger=wandb_offline")
    job = jobs.submit(name, f"srun {BREAK} {train}", TWO, "--requeue")
    jobs.until((run / "stage_01" / "swap.json").exists, "stage 1", name)
    wandb = json.loads((run / "state.json").read_text())["wandb_id"]
    jobs.cluster.ask("scancel", "--signal=USR1", job)
    assert jobs.finished(job, name) == "COMPLETED", jobs.said(name)
    assert jobs.fields(job)["Restarts"] == "1"
    assert f"ended by SIGUSR1; job {job} is in the queue again" in jobs.said(name)
    assert "stage_01: replacing" not in jobs.said(name).split("is in the queue again")[1]
    assert bundle(run) == bundle(two)
    assert json.loads((run / "state.json").read_text())["wandb_id"] == wandb
    assert len(list((run / "wandb").glob(f"offline-run-*-{wandb}*"))) == 2


def test_before_a_time_limit_it_requeues_itself_and_ends_as_if_undisturbed(jobs, two):
    run, name = jobs.folder / "limited", "limited"
    script = f"""
[ -z "$SLURM_RESTART_COUNT" ] || scontrol update JobId=$SLURM_JOB_ID TimeLimit=30
srun {BREAK} {command(run)}"""
    job = jobs.submit(name, script, TWO, "--requeue", "--time=30", "--signal=USR1@120")
    jobs.until((run / "stage_00" / "last.ckpt").exists, "a checkpoint", name)
    ranks = processes(str(run))
    for rank in ranks:  # SLURM looks at limits twice a minute: longer than this run takes
        os.kill(rank, signal.SIGSTOP)
    begun = dict(zip(("h", "m", "s"), jobs.fields(job)["RunTime"].split(":"), strict=True))
    jobs.cluster.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={int(begun['m']) + 2}")
    jobs.until(lambda: all(map(announced, ranks)), "the signal", name)
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError):  # SLURM wakes what it signals
            os.kill(rank, signal.SIGCONT)
    assert jobs.finished(job, name) == "COMPLETED", jobs.said(name)
    assert jobs.fields(job)["Restarts"] == "1"
    assert "stage_00: continuing after step" in jobs.said(name)
    check_ranks_agreed(run, 2)
    assert bundle(run) == bundle(two)


def test_a_killed_rank_ends_the_job_with_one_error_and_the_run_resumes(jobs, two):
    run, name = jobs.folder / "lost", "lost"
    job = jobs.submit(name, f"srun {BREAK} {command(run)}", TWO)
    jobs.until((run / "stage_01" / "last.ckpt").exists, "a checkpoint", name)
    (victim,) = [pid for pid in processes(str(run)) if environment(pid)["SLURM_PROCID"] == "1"]
    os.kill(victim, signal.SIGKILL)
    assert jobs.finished(job, name, seconds=60) == "FAILED"
    assert "error: another rank is gone (" in jobs.said(name)
    assert "the same command with the same run_dir continues" in jobs.said(name)
    assert not processes(str(run))
    fewer = shutil.copytree(run, jobs.folder / "fewer")
    job = jobs.submit("found", f"srun {BREAK} {command(run)}", TWO)
    assert jobs.finished(job, "found") == "COMPLETED", jobs.said("found")
    assert "stage_01: continuing after step" in jobs.said("found")
    assert bundle(run) == bundle(two)
    # The same with one rank less than it began with.
    job = jobs.submit("fewer", f"srun {command(fewer, 'trainer.devices=1')}", "--ntasks-per-node=1")
    assert jobs.finished(job, "fewer") == "COMPLETED", jobs.said("fewer")
    assert "stage_01: continuing after step" in jobs.said("fewer")
    assert len(json.loads((fewer / "stage_01" / "stage.json").read_text())["digests"]) == 1
    assert report(fewer)["final"]["test_accuracy"] > 30  # of ten classes


def processes(word: str) -> list[int]:
    """Python processes with `word` in their command line."""
    results = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if line[0] == sys.executable and any(word in part for part in line):
            results.append(int(path.parent.name))
    return results


def announced(pid: int) -> bool:
    """True once a stopped process has been signaled: it waits for it, goes on, or is gone."""
    try:
        status_text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    status = dict(line.split(":\t", 1) for line in status_text.splitlines() if ":\t" in line)
    waiting = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return not status["State"].startswith("T") or bool(waiting >> (signal.SIGUSR1 - 1) & 1)


def environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def test_a_multirun_submits_a_job_for_every_value_and_lists_what_failed(jobs, two):
    folder = jobs.folder / "sweep"
    submit = ["hydra/launcher=slurm", "hydra.launcher.timeout_min=9"]
    fixed = [option for option in OPTIONS if "schedule.epochs" not in option]
    store = f"results={jobs.folder / 'results'}"
    arguments = ["halut.K=4,8,7", f"run_dir={folder}", store, f"base.cache={two.parent / 'cache'}"]
    done = subprocess.run(
        [sys.executable, "train.py", "-m", *submit, "schedule.epochs=0", *fixed, *arguments],
        cwd=ROOT,
        env=jobs.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr  # as one value cannot be
    table = json.loads((folder / "sweep.json").read_text())
    assert table["counts"] == {"finished": 2, "failed": 1, "unfinished": 0}
    assert [run["values"]["halut.K"] for run in table["runs"]] == [4, 7, 8]
    assert "a power of two" in table["runs"][1]["error"]
    means = [point["mean"]["test_accuracy"] for point in table["points"]]
    reports = [json.loads(path.read_text()) for path in folder.glob("*/report.json")]
    assert sorted(means) == sorted(each["final"]["test_accuracy"] for each in reports)
    scripts = [path.read_text() for path in (folder / ".submitit").rglob("*_submission.sh")]
    for line in ("ntasks-per-node=1", "nodes=1", "requeue", "signal=USR2@120", "time=9"):
        assert f"#SBATCH --{line}\n" in scripts[0]
    assert "#SBATCH --array=0-2%3\n" in scripts[0]
    assert not any("gpus" in script for script in scripts)


def test_tasks_that_are_not_the_devices_are_refused_with_the_command(jobs):
    run = jobs.folder / "refused"
    train = command(run, "trainer.devices=2")
    job = jobs.submit("refused", f"srun --ntasks=1 --ntasks-per-node=1 {train}", TWO)
    assert jobs.finished(job, "refused") == "FAILED"
    message = jobs.said("refused")
    expected = (
        "srun --nodes=1 --ntasks-per-node=2 --kill-on-bad-exit=1 python train.py trainer=slurm"
    )
    assert expected in message
    assert "srun started 1 tasks on 1 nodes, but trainer.devices=2" in message
    assert not run.exists()


def test_the_cluster_listens_on_loopback_and_leaves_nothing(tmp_path, cluster):
    other = Cluster(tmp_path)
    other.start()
    names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids(other)}
    assert sorted(names.values()) == ["munged", "slurmctld", "slurmd"]
    for text in (Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()):
        for line in text.splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            port = str(int(local.split(":")[1], 16))
            if state == "0A" and f"Port={port}\n" in (tmp_path / "slurm.conf").read_text():
                assert local.startswith("0100007F")
    other.stop()
    assert not any(runs(pid, name) for pid, name in names.items())
    assert cluster.ask("sinfo", "-h", "-o", "%T").strip()  # the first one still runs


def pids(cluster: Cluster) -> list[int]:
    return [int(path.read_text()) for path in cluster.folder.glob("*.pid")]

"""Ranks of a study: the first begins, all divide the sites, one that dies ends the others."""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch.distributed as dist

from halut.errors import HalutError
from halut.results.store import Store
from halut.studies.ranks import Ranks

DIGITS = ("data=digits", "base.epochs=1", "data.train_samples=300", "trainer.threads=1")
FLAGS = ("--samples", "100", "--rows", "1024", "--sites", "stack3.*", "--options")
OPTIONS = ("tree C=4,16 K=4", "integer width=8")


def together(size, function):
    """What `function` of each rank returns, all of them threads of this process."""
    store, results = dist.HashStore(), [None] * size

    def run(rank):
        timeout = datetime.timedelta(seconds=60)
        ranks = Ranks(rank, size, dist.ProcessGroupGloo(store, rank, size, timeout))
        results[rank] = function(ranks)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_the_first_begins_and_waits_for_the_shares_of_all():
    events = []

    def study(ranks):
        ranks.after_first(lambda: events.append(("begun", ranks.rank)))
        own = ranks.share("abcdefg")
        events.append(("shared", ranks.rank))
        ranks.finish()
        events.append(("finished", ranks.rank))
        return own

    shares = together(3, study)
    assert shares == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert events[0] == ("begun", 0)
    kinds = [kind for kind, _ in events]
    assert len(events) == 9
    assert kinds.index("finished") > max(i for i, kind in enumerate(kinds) if kind == "shared")


def test_one_process_is_alone():
    ranks = Ranks.join()
    assert ranks.after_first(lambda: 3) == 3
    assert ranks.share([1, 2, 3]) == [1, 2, 3]
    ranks.finish()
    ranks.check()


def test_ranks_that_do_not_find_each_other_say_so(monkeypatch):
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(HalutError, match="do not find each other"):
        Ranks.join()


def start(folder, *words, size=2):
    """The processes of a command, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    shared = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "localhost"}
    shared |= {"MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "halut.cli", *words]
    return [
        subprocess.Popen(command, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, **pipes)
        for r in range(size)
    ]


@pytest.mark.slow
def test_two_ranks_find_what_one_finds_and_the_first_goes_on(tmp_path):
    words = ("search", "budget=bytes:110k", *DIGITS, *FLAGS, *OPTIONS)
    ranks = start(tmp_path, *words)
    outputs = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert outputs[1][0] == ""
    assert "9 measurements, 0 of them" in outputs[0][0]
    files = sorted((tmp_path / "results").glob("*.jsonl"))
    sites = [{json.loads(line)["site"] for line in f.read_text().splitlines()} for f in files]
    assert len(files) == 2
    assert not sites[0] & sites[1]
    content = json.loads((tmp_path / "runs/search/search.json").read_text())
    alone = subprocess.run(
        [sys.executable, "-m", "halut.cli", *words, "--results", "alone"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "9 measurements, 0 of them" in alone.stdout
    again = json.loads((tmp_path / "runs/search/search.json").read_text())
    assert {**again, "command": content["command"]} == content
    figures = [
        {r.key: r.figures["loss"] for r in Store(tmp_path / name).read().records}
        for name in ("results", "alone")
    ]
    assert figures[0] == figures[1]


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_with_one_message(tmp_path, dying):
    many = f"tree C=4,8,16 K=4,8 ridge={','.join(map(str, range(1, 40)))}"
    ranks = start(tmp_path, "sensitivity", *DIGITS, *FLAGS, many)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "results").glob(f"*-{ranks[dying].pid}-*.jsonl")):
        assert time.monotonic() < deadline
        assert [rank.poll() for rank in ranks] == [None, None]
        time.sleep(0.1)
    ranks[dying].send_signal(signal.SIGKILL)
    other = ranks[1 - dying]
    _, errors = other.communicate(timeout=60)
    ranks[dying].communicate()
    assert other.returncode == 1
    (line,) = [each for each in errors.splitlines() if each.startswith("error")]
    assert "another rank is gone" in line


@pytest.mark.slow
def test_ranks_without_a_cache_of_the_exact_network_are_refused(tmp_path):
    ranks = start(tmp_path, "sensitivity", *DIGITS, "base.cache=null", *FLAGS, *OPTIONS)
    outputs = [rank.communicate(timeout=100) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "base.cache=null: several ranks need a folder" in outputs[0][1]

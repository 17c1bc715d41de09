"""Kernels keep to the threads they have."""

import os
import threading
import time

import pytest
import torch
from layer_cases import LAYOUTS, MAPS, tree_case

from halut.ops import tree_layer
from halut.ops.dispatch import available

TASKS = "/proc/self/task"


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(not os.path.isdir(TASKS), reason="threads are listed in /proc of Linux alone")
@pytest.mark.skipif("cpu" not in available("tree_layer"), reason="no compiled kernels")
@pytest.mark.usefixtures("two_threads")
def test_a_layer_of_one_block_makes_no_threads_anew():
    """A parallel region within another one would: at every call, for many times its cost."""
    case, geometry = tree_case(MAPS[0], layout=LAYOUTS[0])
    seen: set[str] = set()
    done = threading.Event()

    def work():
        until = time.monotonic() + 1
        while time.monotonic() < until:
            tree_layer(*case, geometry=geometry)
        done.set()

    tree_layer(*case, geometry=geometry)
    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        seen.update(os.listdir(TASKS))
    worker.join()
    before = len(os.listdir(TASKS))
    assert len(seen) <= before + 4, f"{len(seen)} threads in a second"

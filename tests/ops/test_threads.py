"""Kernels keep to the threads they have."""

import os
import threading
import time

import pytest

from halut.ops import tree_layer
from halut.ops.core.dispatch import available
from tests.ops.layer_cases import LAYOUTS, MAPS, tree_case

TASKS = "/proc/self/task"


@pytest.mark.skipif(not os.path.isdir(TASKS), reason="threads are listed in /proc of Linux alone")
@pytest.mark.skipif("cpu" not in available("tree_layer"), reason="no compiled kernels")
@pytest.mark.slow
def test_a_layer_of_one_block_makes_no_threads_anew(set_threads):
    """A parallel region within another one would: at every call, for many times its cost."""
    set_threads(2)
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

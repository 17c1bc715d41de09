"""The target `torch`: a torch.export program, and an AOTInductor package of it.

A new process loads them with torch and halut.ops, which registers the operators that they call.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from halut.errors import HalutError, message_of
from halut.export.difference import difference
from halut.export.targets import Written
from halut.export.tracing import with_open_batch
from halut.inference import prepare
from halut.inference.base import InferenceLayer
from halut.inference.verify import answer_of
from halut.option import choice, option
from halut.sites.calls import Call

log = logging.getLogger("halut")
PROGRAM, PACKAGE = "program.pt2", "package.pt2"
COMPILE = ("auto", "always", "never")
LOADERS = {
    PROGRAM: "torch.export.load({path!r}).module()",
    PACKAGE: "torch._inductor.aoti_load_package({path!r})",
}
"""How the files are loaded, in Python."""
RUN = """
import sys, torch, halut.ops
network = {load}
args, kwargs = torch.load({inputs!r})
with torch.no_grad():
    torch.save(network(*args, **kwargs), {outputs!r})
assert "lightning" not in sys.modules and "hydra" not in sys.modules
"""


@dataclass(kw_only=True)
class Options:
    """What is written."""

    prepare: bool = option(True, "the network as halut.prepare makes it; false: as it is trained")
    compile: str = option("auto", "a package of AOTInductor as well, which needs a C++ compiler")

    def __post_init__(self) -> None:
        choice("torch.compile", self.compile, COMPILE)


def write(network: nn.Module, example: Call, folder: Path, options: Options) -> Written:
    """program.pt2 and, where it can be compiled, package.pt2; each runs in a process of its own.

    The program answers the prepared network's bits; how far that is from the network is told. The
    package's floats may round otherwise, as its operators are fused.
    """
    prepared = any(isinstance(module, InferenceLayer) for module in network.modules())
    served = prepare(network, example) if options.prepare and not prepared else network
    program = exported(served, example)
    torch.export.save(program, folder / PROGRAM)
    expected = answer_of(network, example)
    answer = run_elsewhere(folder / PROGRAM, example)
    details: dict[str, Any] = {"program": {"equal": _equal(answer, answer_of(served, example))}}
    if not details["program"]["equal"]:
        raise HalutError(f"{PROGRAM} answers other bits than the network it was exported from")
    if options.compile != "never" and _compiled(program, folder / PACKAGE, options.compile):
        compiled = run_elsewhere(folder / PACKAGE, example)
        difference(compiled, expected, example.samples)
        details["package"] = {"equal": _equal(compiled, answer)}
    return Written(difference(answer, expected, example.samples), details=details)


def exported(network: nn.Module, example: Call) -> ExportedProgram:
    """The program of a network with the batch left open; HalutError if torch cannot trace it."""
    call, shapes = with_open_batch(network, example)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(network, call.args, call.kwargs, dynamic_shapes=shapes)
    except Exception as error:  # of torch's own kinds, and whatever the network's code raises
        name, reason = type(network).__name__, message_of(error)[:300]
        raise HalutError(f"torch.export cannot trace {name}: {reason}") from error


def _compiled(program: ExportedProgram, path: Path, wanted: str) -> bool:
    """Whether AOTInductor wrote a package; HalutError if it is asked for and did not."""
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        return True
    except Exception as error:  # no compiler, or an operator that has no form there
        path.unlink(missing_ok=True)
        if wanted == "always":
            raise HalutError(f"AOTInductor: {message_of(error)[:300]}") from error
        log.warning("no %s: AOTInductor: %s", path.name, message_of(error)[:300])
        return False


def run_elsewhere(path: Path, example: Call, environment: dict[str, str] | None = None) -> Any:
    """What a file answers in a new process that imports torch and halut.ops alone."""
    with tempfile.TemporaryDirectory() as name:
        inputs, outputs = (os.path.join(name, each) for each in ("inputs.pt", "outputs.pt"))
        torch.save((example.args, example.kwargs), inputs)
        load = LOADERS[path.name].format(path=str(path.absolute()))
        code = RUN.format(load=load, inputs=inputs, outputs=outputs)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            raise HalutError(f"{path.name} does not run in a new process: {last}")
        return torch.load(outputs)


def _equal(ours: Any, theirs: Any) -> bool:
    a, b = tree_leaves(ours), tree_leaves(theirs)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

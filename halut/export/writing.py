"""Exports of a network: a folder that is written whole or not at all, and its manifest."""

from __future__ import annotations

import copy
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halut.bundle import Plugins, load_bundle
from halut.configs import from_options
from halut.errors import HalutError
from halut.export.manifest import NAME, Export, read_export, write_manifest
from halut.export.targets import Written, load_target
from halut.io import write_folder
from halut.sites.calls import example_call

log = logging.getLogger("halut")
SAMPLES = 64
"""Samples of the random batch that exports of a run are verified on."""


def export(
    network: nn.Module, example: Any, *, to: str, folder: str | Path, **options: Any
) -> Export:
    """Write `network`, in evaluation mode, as files of the target `to` into `folder`.

    Args:
        network: any network with replaced layers, compiled or not; it stays as it is. A prepared
            one has a torch program alone: the other targets want what it was prepared from.
        example: a batch of inputs that the files are verified on: a Tensor, a tuple of arguments,
            a mapping of keywords or a halut.Call.
        to: bundle, onnx, torch or packed (halut.export.targets).
        folder: made anew; an export or an empty folder that is there is replaced.
        options: the target's (`halut export --help`).

    Returns the export, whose manifest says how far its answers are from the network's.
    Raises HalutError if the target has no form for a layer, if `folder` holds something else, or if
    a package that the target needs is missing: the network and the folder are then as they were.

    >>> halut.export(network, batch, to="onnx", folder="out").manifest["difference"]["largest"]
    """
    network = getattr(network, "_orig_mod", network)  # what torch.compile made it of
    target = load_target(to)
    chosen: Any = from_options(target.Options, options, path=f"{to}.")
    call = example_call(network, example).to(torch.device("cpu"))
    copied = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    with write_folder(Path(folder), marker=NAME) as temporary:
        with torch.no_grad():
            written = target.write(copied, call, temporary, chosen)
        write_manifest(temporary, to, written, _plain(chosen))
    _report(Path(folder), written)
    return read_export(folder)


def export_run(
    run: Path,
    *,
    to: str,
    folder: Path,
    example: Any = None,
    plugins: Plugins = (),
    **options: Any,
) -> Export:
    """`export` of a run or bundle folder's network.

    Without an example, on SAMPLES normally distributed inputs. Raises HalutError as `load_bundle`
    does, and if the folder does not say what shape inputs have.
    """
    if not run.is_dir():
        raise HalutError(f"{run}: no such folder")
    network, plan, report = load_bundle(run, plugins)
    if example is None:
        shape = plan.model.get("input_shape")
        if shape is None:
            raise HalutError(f"{run} does not say what its inputs are: give some (--inputs)")
        log.warning(
            "verified on %d normally distributed inputs: give real ones (--inputs)", SAMPLES
        )
        example = torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(0))
    source = {"plan": plan, "report": report}
    wanted = {field.name for field in fields(load_target(to).Options)}
    own = {key: value for key, value in source.items() if key in wanted}
    return export(network, example, to=to, folder=folder, **own, **options)


def _plain(options: Any) -> dict[str, Any]:
    """Those of a target's options that JSON can hold."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    plain = (str, int, float, bool)
    return {key: value for key, value in values.items() if isinstance(value, plain)}


def _report(folder: Path, written: Written) -> None:
    found = written.difference
    verdict = "nothing to run" if found is None else str(found)
    log.info("%s: %s", folder, verdict)

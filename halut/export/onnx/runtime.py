"""A model run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from halut.sites.calls import Call


def run(path: Path, example: Call) -> list[Tensor]:
    """The outputs of the model in the file `path`, on the CPU.

    Inputs are the call's tensors in their order: the exporter names and orders them so.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    values = [tensor.detach().numpy() for tensor in example.tensors]
    outputs = session.run(None, dict(zip(names, values, strict=True)))
    return [torch.from_numpy(output) for output in outputs]

"""Weight files: loading and saving."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from halut.errors import HalutError
from halut.io import write_bytes

WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts put the state dict."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What DataParallel, a LightningModule and torch.compile put before every name."""

UNITS = (".encoder.unit", "_codec.unit")
"""Ends of the names of tensors that layers saved by earlier versions lack: they were 1."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load every tensor of `model`, and nothing else, from a safetensors or torch file.

    Torch files are read with weights_only=True; a state dict under `state_dict` or `model`, and
    names that all begin with module., model. or _orig_mod., are unwrapped.

    Raises HalutError, with the model untouched, if the file is missing, unreadable, truncated or
    of another network (names or shapes differ).
    """
    path = Path(path)
    state = unwrap(read_state(path), model.state_dict(), path)
    expected = model.state_dict()
    for key in expected:
        if key.endswith(UNITS):
            state.setdefault(key, torch.ones_like(expected[key]))
    check_fits(state, expected, path)
    model.load_state_dict(state, strict=True)


def save_weights(
    path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically; tensors that share memory are written one by one."""
    # safetensors refuses views and shared storage: clone, on the CPU, which also makes contiguous.
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state_dict.items()
    }
    write_bytes(Path(path), save(tensors, dict(metadata) if metadata is not None else None))


def read_state(path: Path) -> object:
    """What a weights file holds, on the CPU.  Raises HalutError naming the file and its size."""
    try:
        if not path.is_file():
            raise HalutError(f"weights file {path} does not exist or is no file")
        size = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise HalutError(f"weights file {path} cannot be read: {error.strerror}") from error
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise HalutError(
            f"weights file {path} ({size:,} bytes) is corrupt or no torch file of plain tensors; "
            "files that need unpickling are refused: save the state dict as .safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HalutError(
            f"weights file {path} ({size:,} bytes) is truncated or corrupt: {reason}"
        ) from error


def unwrap(content: object, expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, its names without the wrappers' prefixes."""
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise HalutError(f"weights file {path} holds no state dict but {type(content).__name__}")
    state = {str(key): value for key, value in content.items()}
    strange = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise HalutError(f"weights file {path} holds no state dict: {some(strange)} no tensors")
    while prefix := common_prefix(state, expected):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def common_prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """A wrapper's prefix that all names of `state` have and those of the network do not."""
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state) and not all(
            key.startswith(prefix) for key in expected
        ):
            return prefix
    return None


def check_fits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise HalutError listing names and shapes in which a state dict differs from a network's."""
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {signature(state[key])} instead of {signature(expected[key])}"
        for key in expected
        if key in state and signature(state[key]) != signature(expected[key])
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    messages = [f"{len(keys)} {fault}: {some(keys)}" for fault, keys in faults.items() if keys]
    if messages:
        raise HalutError(
            f"weights file {path} is of another network ({len(expected)} tensors wanted, "
            f"{len(state)} found); " + "; ".join(messages)
        )


def signature(tensor: Tensor) -> str:
    """Shape and kind: an integer table must not be copied into a float one silently."""
    kind = "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    return f"{kind}{list(tensor.shape)}"


def some(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

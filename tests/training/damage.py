"""Files spoilt in every way: a list of (name, function that spoils the file at a path)."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

CONTENTS = {
    "empty": b"",
    "garbage": random.Random(0).randbytes(300),
    "latin1": "{'é'}".encode("latin-1"),
    "nul": b"\0" * 64,
    "a list": b"[1, 2]",
    "null": b"null",
    "a text": b'"x"',
    "an empty object": b"{}",
    "a huge number": b"1" * 5000,
    "nested too deep": b"[" * 200_000,
    "text": b"step,stage\nx,y,\xff\xfe\n" + "²,a,b,1\n".encode(),
}
VALUES: tuple[Any, ...] = (None, True, -1, 1e308, 10**400, "x", [], {}, [None], {"x": None})
"""What a value of an object is replaced by."""


def contents() -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Whole files replaced, cut, and a folder in the place of one."""
    for name, content in CONTENTS.items():
        yield name, lambda path, content=content: path.write_bytes(content)
    yield "half of it", lambda path: path.write_bytes(_half(path.read_bytes()))
    yield "a folder", _folder


def values(path: Path, count: int) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """`count` drawn values anywhere in a JSON file replaced by VALUES, or their key missing."""
    draw = random.Random(str(path.name))
    places = list(_places(json.loads(path.read_text())))
    for _ in range(count):
        place, value = draw.choice(places), draw.choice((*VALUES, KeyError))
        yield f"{place} {str(value)[:20]}", lambda path, p=place, v=value: _replace(path, p, v)


def checkpoints() -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Torch files that are whole, but hold something else."""
    for content in ({}, [], None, {"global_step": 1}, {"global_step": "x", "state_dict": {}}):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        whole = buffer.getvalue()
        yield f"torch {content}", lambda path, whole=whole: path.write_bytes(whole)
    for key in ("state_dict", "loops", "optimizer_states", "lr_schedulers", "callbacks"):
        for value in (None, {}, [1], {"x": 1}):
            yield f"{key}={value}", lambda path, k=key, v=value: _with(path, k, v)


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _with(path: Path, key: str, value: Any) -> None:
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, key: value}, path)


def _places(content: Any, prefix: tuple = ()) -> Iterator[tuple]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        yield (*prefix, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*prefix, key))


def _replace(path: Path, place: tuple, value: Any) -> None:
    content = json.loads(path.read_text())
    owner = content
    for key in place[:-1]:
        owner = owner[key]
    if value is KeyError:
        owner.pop(place[-1])
    else:
        owner[place[-1]] = value
    path.write_text(json.dumps(content))

"""Reader of packed networks: Python and NumPy alone. It ships inside every export.

    python reader.py [FOLDER]

checks the digests of all files, replays every layer's golden vectors bit for bit, and prints
"0 mismatches" or the first one. FORMAT.md beside it states what it computes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MANIFEST = "packed.json"
FORMAT = "halut.packed"
VERSION = 1
CHUNK = 1 << 12
"""Rows coded at once."""

Array = NDArray[Any]


class DamagedError(Exception):
    """A file is missing, truncated, edited, or of a newer version; the message names it."""


# -- files ---------------------------------------------------------------------------------------


def load(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, after every file it names was found as it was written."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise DamagedError(f"{path} is of the format {manifest['format']!r}, not {FORMAT!r}")
        if manifest["version"] > VERSION:
            raise DamagedError(
                f"{path} is of version {manifest['version']}, newer than this reader, which reads "
                f"version {VERSION}"
            )
        if manifest["sha256"] != manifest_digest(manifest):
            raise DamagedError(f"{path} was edited since it was written: its digest is another")
    except FileNotFoundError as error:
        raise DamagedError(f"{folder} is no packed network: it has no {MANIFEST}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is truncated or damaged: {error}") from error
    for name, entry in manifest["files"].items():
        _check(folder / name, entry)
    return manifest


def manifest_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the manifest without its own: JSON of sorted keys, without spaces."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise DamagedError(f"{path} is missing")
    content = path.read_bytes()
    if len(content) < entry["bytes"]:
        raise DamagedError(f"{path} is truncated: {len(content)} of {entry['bytes']} bytes")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise DamagedError(f"{path} was edited since it was written: its digest is another")


def unpack(content: bytes, bits: int, signed: bool, count: int) -> Array:
    """int64 [count] of `bits` bits each, entry i at bits i * bits and up, lowest first."""
    stream = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    places = stream[: count * bits].reshape(count, bits).astype(np.int64) << np.arange(bits)
    values = places.sum(axis=1)
    if signed:
        values -= (values >> (bits - 1)) << bits
    return np.asarray(values)


def tensors(folder: Path, step: dict[str, Any]) -> dict[str, Array]:
    """The packed tensors of a step, int64, by name."""
    if not step["tensors"]:
        return {}
    content = (folder / step["file"]).read_bytes()
    values = {}
    for entry in step["tensors"]:
        part = content[entry["offset"] : entry["offset"] + entry["bytes"]]
        count = int(np.prod(entry["shape"], dtype=np.int64))
        flat = unpack(part, entry["bits"], entry["signed"], count)
        values[entry["name"]] = flat.reshape(entry["shape"])
    return values


def vector(folder: Path, entry: dict[str, Any]) -> Array:
    """A golden vector, int64: bytes, or little-endian int32."""
    kind = "<i4" if entry["bits"] == 32 else "u1"
    values = np.frombuffer((folder / entry["file"]).read_bytes(), kind)
    return values.astype(np.int64).reshape(entry["shape"])


# -- arithmetic ----------------------------------------------------------------------------------


def patches(x: Array, window: dict[str, Any]) -> Array:
    """Maps [B, C, H, W] -> [B, OH, OW, C, kh, kw]: the pixels under the window."""
    (kh, kw), (sh, sw), (dh, dw) = (window[k] for k in ("kernel_size", "stride", "dilation"))
    left, right, top, bottom = window["padding"]
    pads = ((0, 0), (0, 0), (top, bottom), (left, right))
    x = np.pad(x, pads, constant_values=window["padding_code"])
    OH = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    OW = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    out = np.empty((len(x), OH, OW, x.shape[1], kh, kw), x.dtype)
    for i in range(kh):
        for j in range(kw):
            part = x[:, :, i * dh : i * dh + sh * OH : sh, j * dw : j * dw + sw * OW : sw]
            out[:, :, :, :, i, j] = part[:, :, :OH, :OW].transpose(0, 2, 3, 1)
    return out


def rows_of(x: Array, step: dict[str, Any]) -> Array:
    """The rows that a layer multiplies or codes: [N, columns], im2col's channel-major."""
    if step["window"] is None:
        return x.reshape(-1, x.shape[-1])
    out = patches(x, step["window"])
    return out.reshape(int(np.prod(out.shape[:3])), -1)


def tree_codes(rows: Array, split_dims: Array, thresholds: Array) -> Array:
    """codes [N, G * C]: at every level one input and the node's threshold, above goes right."""
    codebook = np.arange(len(split_dims))
    codes = np.zeros((len(rows), len(split_dims)), np.int64)
    for level in range(split_dims.shape[1]):
        node = 2**level - 1 + codes
        right = rows[:, split_dims[:, level]] > thresholds[codebook, node]
        codes = 2 * codes + right
    return codes


def nearest_codes(rows: Array, step: dict[str, Any], prototypes: Array) -> Array:
    """codes [N, G * C]: the first of the nearest prototypes of each block."""
    codes, at = [], 0
    for start, width in zip(step["starts"], step["widths"], strict=True):
        book = prototypes[at : at + step["K"] * width].reshape(step["K"], width)
        at += step["K"] * width
        far = np.abs(rows[:, None, start : start + width] - book)
        distance = {
            "l2": lambda far=far: np.square(far).sum(2),
            "l1": lambda far=far: far.sum(2),
            "chebyshev": lambda far=far: far.max(2),
        }[step["metric"]]()
        codes.append(distance.argmin(1))
    return np.stack(codes, 1)


def requantize(
    sums: Array, residual: Array | None, step: dict[str, Any], stored: dict[str, Array]
) -> Array:
    """Bytes of sums [N, M]: multiply, add, shift (towards minus infinity), clamp."""
    total = sums * stored["multiplier"] + stored["bias"]
    if residual is not None:
        total = total + residual * step["residual_multiplier"]
    return np.clip(total >> step["shift"], step["low"], 255)


def tables(rows: Array, step: dict[str, Any], stored: dict[str, Array]) -> dict[str, Array]:
    """codes [N, G * C] and sums [N, M] of a layer by tables."""
    parts = []
    for chunk in np.array_split(rows, max(1, len(rows) // CHUNK)):
        if step["encoder"] == "tree":
            parts.append(tree_codes(chunk, stored["split_dims"], stored["thresholds"]))
        else:
            parts.append(nearest_codes(chunk, step, stored["prototypes"]))
    codes = np.concatenate(parts)
    table, G, C = stored["table"], step["groups"], step["codebooks"]  # table [M, C, K]
    grouped, sums = codes.reshape(-1, G, C), np.zeros((len(codes), len(table)), np.int64)
    for m in range(len(table)):
        g = m * G // len(table)
        for c in range(C):
            sums[:, m] += table[m, c, grouped[:, g, c]]
    return {"codes": codes, "sums": sums}


def product(rows: Array, step: dict[str, Any], stored: dict[str, Array], zero: int) -> Array:
    """sums [N, M] of an exact layer. float64 holds them exactly, and multiplies faster."""
    weight, G = stored["weight"].astype(np.float64), step["groups"]
    centered = (rows - zero).reshape(len(rows), G, -1).astype(np.float64)
    by_group = weight.reshape(G, len(weight) // G, -1)
    sums = np.concatenate([centered[:, g] @ by_group[g].T for g in range(G)], axis=1)
    return sums.astype(np.int64)


def answer(
    step: dict[str, Any], stored: dict[str, Array], zero: int, x: Array, residual: Array | None
) -> dict[str, Array]:
    """Everything a step answers to its input x, whose zero point is `zero`, and a residual."""
    kind, shape = step["kind"], (len(x), *step["shape"])
    if kind == "flatten":
        return {"output": x.reshape(shape)}
    if kind == "relu":
        return {"output": np.maximum(x, zero)}
    if kind == "max_pool":
        return {"output": patches(x, step["window"]).max((4, 5)).transpose(0, 3, 1, 2)}
    if kind == "add":
        assert residual is not None
        rows = requantize((x - zero).reshape(-1, 1), residual.reshape(-1, 1), step, stored)
        return {"output": rows.reshape(shape)}
    if kind == "mean_pool":
        parts = {"sums": (x - zero).sum((2, 3))}
    elif kind == "product":
        parts = {"sums": product(rows_of(x, step), step, stored, zero)}
    elif kind == "tables":
        parts = tables(rows_of(x, step), step, stored)
    else:
        raise DamagedError(f"step {step['name']} is of the unknown kind {kind!r}")
    M, spatial = parts["sums"].shape[1], step.get("window") is not None
    if residual is not None:
        residual = residual.transpose(0, 2, 3, 1) if spatial else residual
        residual = residual.reshape(-1, M)
    output = requantize(parts["sums"], residual, step, stored)
    if spatial:
        maps = output.reshape(len(x), shape[2], shape[3], M)
        return {**parts, "output": maps.transpose(0, 3, 1, 2)}
    return {**parts, "output": output.reshape(shape)}


# -- replay --------------------------------------------------------------------------------------


def run(folder: Path, manifest: dict[str, Any], x: Array) -> Iterator[tuple[dict, dict]]:
    """(step, what it answers) of every step, for bytes x [B, ...] of the network's input."""
    values = {manifest["input"]: x.astype(np.int64)}
    for step in manifest["steps"]:
        read, *rest = (values[name] for name in step["inputs"])
        zero = manifest["values"][step["inputs"][0]]["zero_point"]
        residual = rest[0] if rest else None
        parts = answer(step, tensors(folder, step), zero, read, residual)
        values[step["name"]] = parts["output"]
        yield step, parts


def mismatches(folder: Path) -> tuple[int, str | None]:
    """(how many integers were compared, the first that differs from its golden vector)."""
    manifest = load(folder)
    compared = 0
    for step, parts in run(folder, manifest, vector(folder, manifest["vectors"])):
        for name, entry in step["vectors"].items():
            golden = vector(folder, entry)
            compared += golden.size
            wrong = np.argwhere(parts[name] != golden)
            if len(wrong):
                at = tuple(int(i) for i in wrong[0])
                numbers = f"{parts[name][at]} instead of {golden[at]}"
                return compared, f"{step['name']}: {name}{list(at)} is {numbers}"
    return compared, None


def main() -> int:
    """Replay a folder's vectors; the exit code."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    try:
        compared, first = mismatches(folder)
    except DamagedError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{compared} integers: {'0 mismatches' if first is None else first}")
    return 0 if first is None else 1


if __name__ == "__main__":
    sys.exit(main())

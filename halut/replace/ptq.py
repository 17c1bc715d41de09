"""Post-training quantization: the exact network's sites in torchao's integers, as a baseline.

torchao's `quantize_` takes Linear layers alone; its primitives, which take any tensor, quantize
weights and inputs of Linear and Conv2d alike here.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from halut.errors import HalutError
from halut.ops.core.finite import kept_finite
from halut.sites.attention import KIND
from halut.sites.calls import Batches, feed
from halut.sites.eval_mode import eval_mode
from halut.sites.find import Site
from halut.sites.modules import HOOKS, call_inputs, replace_module
from halut.sites.plan import Entry

WIDTHS = range(2, 9)
INPUT_BITS = 8
SCALE_BITS = 32
"""Of a scale, of which every output has one."""
AUTO, NONE = "auto", "none"
CHOICES = f"{AUTO}, {NONE} or widths in {WIDTHS[0]}..{WIDTHS[-1]} such as [8,4]"
MISSING = (
    "the INT8 and INT4 baselines need the package torchao: pip install 'halut[torchao]'; "
    "ptq=none does without them"
)

Range = tuple[float, float]


def primitives() -> Any:
    """torchao's affine quantization; HalutError if it is not installed."""
    try:
        with _without_advice():
            from torchao.quantization import quant_primitives
    except ImportError as error:
        raise HalutError(MISSING) from error
    return quant_primitives


@contextmanager
def _without_advice() -> Iterator[None]:
    """Newer torch advises whoever imports torchao on how its enums should be registered."""
    advisor = logging.getLogger("torch.utils._pytree")
    level = advisor.level
    advisor.setLevel(logging.ERROR)
    try:
        yield
    finally:
        advisor.setLevel(level)


def available() -> bool:
    """True if torchao is installed."""
    try:
        primitives()
    except HalutError:
        return False
    return True


def check_choice(choice: Any) -> None:
    """Raise HalutError unless `choice`, the option ptq, can be had: widths need torchao."""
    if choice in (AUTO, NONE, None):
        return
    if not isinstance(choice, list) or any(type(width) is not int for width in choice):
        raise HalutError(f"ptq must be {CHOICES}; got {choice!r}")
    wrong = [width for width in choice if width not in WIDTHS]
    if wrong:
        raise HalutError(f"ptq must be {CHOICES}; got a width of {wrong[0]}")
    if choice:
        primitives()


class QuantizedProduct(nn.Module):
    """y = product(Qx(x), Qw(W)) + bias of a Linear or a Conv2d, of decoded values.

    Weights: `width` bits, a scale per output channel, no zero point; none saturates. Inputs: 8
    bits, one scale and zero point for the range (low, high) that was seen, zero included, so that
    padding stays zero. Up to the rounding of float sums this is the integer product, scaled.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, source: nn.Module, width: int, input_range: Range) -> None:
        super().__init__()
        q = primitives()
        self.product = copy.deepcopy(source)
        for hooks in (vars(self.product)[name] for name in HOOKS):
            if hooks:  # they are this module's, once it has the source's place
                hooks.clear()
        weight: Any = self.product.weight
        block = (1, *weight.shape[1:])
        bounds = -(2 ** (width - 1)), 2 ** (width - 1) - 1
        values = weight.detach().float()
        rule = q.MappingType.SYMMETRIC_NO_CLIPPING_ERR
        coding = q.choose_qparams_affine(values, rule, block, torch.int8, *bounds)
        codes = q.quantize_affine(values, block, *coding, torch.int8, *bounds)
        with torch.no_grad():
            weight.copy_(q.dequantize_affine(codes, block, *coding, torch.int8, *bounds))
        low, high = (torch.tensor(value, device=weight.device) for value in input_range)
        rule = q.MappingType.ASYMMETRIC
        coding = q.choose_qparams_affine_with_min_max(low, high, rule, (), torch.int8)
        self.register_buffer("scale", coding[0])
        self.register_buffer("zero_point", coding[1])

    def forward(self, input: Tensor) -> Tensor:
        x = input
        q, block = primitives(), tuple(x.shape)
        coding = (block, self.scale, self.zero_point, torch.int8)
        codes = q.quantize_affine(x.float(), *coding)
        return self.product(kept_finite(q.dequantize_affine(codes, *coding).to(x.dtype), x))


def quantizable(entries: Iterable[Entry]) -> list[Entry]:
    """Those whose site has a weight: not attention's two products."""
    return [entry for entry in entries if entry.site.kind != KIND]


def quantized(
    exact: nn.Module, entries: Iterable[Entry], ranges: Mapping[str, Range], width: int
) -> nn.Module:
    """A copy of the exact network whose sites `entries` are QuantizedProducts of `width` bits."""
    network = copy.deepcopy(exact)
    for entry in quantizable(entries):
        name = entry.site.name
        replace_module(
            network, name, QuantizedProduct(network.get_submodule(name), width, ranges[name])
        )
    return network


def input_ranges(
    network: nn.Module,
    names: Sequence[str],
    batches: Batches,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Range]:
    """The lowest and the highest input of each named module over `batches`, in evaluation mode."""
    ranges: dict[str, Range] = {}

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = call_inputs(args, kwargs)[0]
            low, high = (float(bound) for bound in torch.aminmax(x.detach().float()))
            ranges[name] = wider([ranges.get(name, (low, high)), (low, high)])

        return note

    modules = {name: network.get_submodule(name) for name in names}
    hooks = [
        module.register_forward_pre_hook(hook(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    with eval_mode(network, hooks) as device:
        feed(network, batches, device, progress)
    return ranges


def wider(ranges: Sequence[Range]) -> Range:
    """The range that holds all of them."""
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def quantized_bytes(sites: Iterable[Site], width: int) -> int:
    """What inference must hold of the sites: codes, scales of 4 bytes, zero points of 1, biases."""
    return sum(
        -(-site.weights * width // 8) + SCALE_BITS // 8 * site.M + 5 + 4 * site.M * site.bias
        for site in sites
    )


def describe(entry: Mapping[str, Any]) -> str:
    """An entry of a report's `ptq` in words."""
    unquantized = entry["left_exact"]
    words = (
        f"exact, quantized by {entry['library']} without training: {entry['weight_bits']}-bit "
        f"weights, {entry['activation_bits']}-bit inputs, {entry['bytes']:,} bytes where the "
        f"replacement has {entry['replacement_bytes']:,} and floats {entry['exact_bytes']:,}"
    )
    return f"{words}; still exact: {', '.join(unquantized)}" if unquantized else words

"""Verification of converted networks against the original, step by step.

Decisions that are taken from one example hold for it alone: they are verified on another number of
samples. A step is verified on the values that the network itself has there, so that a code which
rounding moves across a threshold in one layer is no error of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from halut.errors import HalutError
from halut.inference.base import InferenceLayer
from halut.inference.fold import KINDS, Folding, Shapes, Step
from halut.inference.trace import Arguments
from halut.sites.calls import Call
from halut.sites.operator import ReplacedLayer
from halut.sites.usage import Forward, forwards, seeded

VERIFICATION_BATCH = 3
"""Samples of a batch that something is verified on, beside batches of one."""
CODES = {torch.float32: 0.02}
"""Share of rows of which rounding may change a code, as the layer and its form compute them in
different order; 0.3 in float16 and bfloat16."""


def probes(example: Call) -> list[Call]:
    """The example, unless it is long, a batch of one, and one of another size.

    Samples that it lacks are those it has, rotated along their last dimension.
    """
    batched = [t for t in example.tensors if t.ndim]
    if not batched or not batched[0].numel():
        raise HalutError("the example must be a batch of at least one input")
    samples = example.samples

    def other(tensor: Tensor) -> Tensor:
        """VERIFICATION_BATCH samples; a tensor that is not one of the batch as it is."""
        if not tensor.ndim or len(tensor) != samples:
            return tensor
        turns = range(-(-VERIFICATION_BATCH // samples))
        return torch.cat([tensor.roll(turn, -1) for turn in turns])[:VERIFICATION_BATCH]

    short = example if samples <= 2 * VERIFICATION_BATCH else example.head(2 * VERIFICATION_BATCH)
    others = [example.map(other), example.head(1)]
    return [short, *(call for call in others if call.samples != short.samples)]


def answer_of(network: nn.Module, call: Call) -> Any:
    """The network's output; the call's tensors are copied, as code may overwrite them."""
    return call.map(torch.clone)(network)


def copied(value: Any) -> Any:
    """The same with its tensors copied, as code may overwrite them."""
    return tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, value)


def same(ours: Any, theirs: Any, tolerance: float = 0.0) -> bool:
    """Whether two answers are alike, tensors up to `tolerance` of their largest entry."""
    ours, theirs = tree_leaves(ours), tree_leaves(theirs)
    if len(ours) != len(theirs):
        return False
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor) != isinstance(b, Tensor):
            return False
        if isinstance(a, Tensor) and not _close(a, b, tolerance):
            return False
    return True


def tolerance(dtype: torch.dtype) -> float:
    """What sums may differ by that are taken in another order, as a share of the largest."""
    return min(100 * torch.finfo(dtype).eps, 0.05) if dtype.is_floating_point else 0.0


def tolerance_of(value: Any) -> float:
    """The tolerance of the widest of a value's tensors."""
    dtypes = [v.dtype for v in tree_leaves(value) if isinstance(v, Tensor)]
    return max(map(tolerance, dtypes), default=0.0)


def _close(a: Tensor, b: Tensor, share: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b) or not a.numel():
        return True
    a, b = a.detach().double(), b.detach().double()
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite) or not torch.equal(a.isnan(), b.isnan()):
        return False
    a, b = a[finite], b[finite]
    return not b.numel() or bool((a - b).abs().max() <= share * b.abs().max())


# -- layers ---------------------------------------------------------------------------------------


def check_layers(network: nn.Module, prepared: nn.Module, batches: Sequence[Call]) -> list[Call]:
    """Those of `batches` that `network` takes, after its layers' forms answered them as they do.

    The network is in evaluation mode. Raises HalutError naming the first layer whose form answers
    otherwise, and if no batch is taken.
    """
    used, refusal = [], ""
    forms = dict(prepared.named_modules(remove_duplicate=False))
    handles = [
        layer.register_forward_hook(_comparison(name, forms[name]), prepend=True, with_kwargs=True)
        for name, layer in network.named_modules()
        if isinstance(layer, ReplacedLayer)
    ]
    try:
        for call in batches:
            try:
                answer_of(network, call)
                used.append(call)
            except HalutError:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                refusal = refusal or f"{_described(call)}: {reason}"
    finally:
        for handle in handles:
            handle.remove()
    if not used:
        raise HalutError(f"the network cannot take {refusal}")
    return used


def _described(call: Call) -> str:
    one = call.args[0] if len(call.args) == 1 and not call.kwargs else None
    return f"an input of shape {list(one.shape)}" if isinstance(one, Tensor) else repr(call)


def check_code(network: nn.Module, prepared: nn.Module, batches: Sequence[Call]) -> None:
    """Raise HalutError if the code around the layers does otherwise with their forms in place.

    Forms answer what their layers do meanwhile: what is compared is what the network's code makes
    of other attributes, types and parameters. Networks that do not repeat themselves cannot be.
    Equal layers may round otherwise in a copy (its weights lie elsewhere in memory), which may move
    a code: where answers differ, forms answer what their layers did on inputs that are alike.
    """
    layers = {n: m for n, m in network.named_modules() if isinstance(m, ReplacedLayer)}
    forms = {name: prepared.get_submodule(name) for name in layers}
    for call in batches:
        expected, again = (seeded(network, call.map(torch.clone)) for _ in range(2))
        reason = _otherwise(prepared, call, expected, forms, lambda name, _: layers[name].forward)
        if not reason or not same(again, expected):
            continue
        answers = Answers(layers)
        with forwards(layers, answers.noted):
            expected = seeded(network, call.map(torch.clone))
        reason = _otherwise(prepared, call, expected, forms, answers.given)
        if reason:
            raise HalutError(
                f"the code of {type(network).__name__} {reason} with prepared layers in the place "
                f"of its own ({', '.join(layers)}): it reads something that they have not"
            )


def _otherwise(
    prepared: nn.Module,
    call: Call,
    expected: Any,
    forms: Mapping[str, nn.Module],
    wrap: Callable[[str, Forward], Forward],
) -> str:
    """How a prepared network does otherwise than `expected` while its forms are wrapped; or ""."""
    with forwards(forms, wrap):
        try:
            answer = seeded(prepared, call.map(torch.clone))
        except Exception as error:
            return f"fails, {type(error).__name__}: {error}".splitlines()[0]
    return "" if same(answer, expected, tolerance_of(expected)) else "answers otherwise"


class Answers:
    """What layers answered, call by call, to be given again where their inputs are alike."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.layers = layers
        self.calls: dict[str, list[tuple[Any, Any]]] = {}

    def noted(self, name: str, forward: Forward) -> Forward:
        """For `forwards`: the layer's own forward, whose inputs and answers are kept."""

        def run(*args: Any, **kwargs: Any) -> Any:
            inputs = copied((args, kwargs))
            output = forward(*args, **kwargs)
            self.calls.setdefault(name, []).append((inputs, copied(output)))
            return output

        return run

    def given(self, name: str, _: Forward) -> Forward:
        """For `forwards`: a layer's next answer where its inputs are alike, or its own forward."""
        forward, calls = self.layers[name].forward, iter(self.calls.get(name, []))

        def run(*args: Any, **kwargs: Any) -> Any:
            inputs, output = next(calls, (None, None))
            if same((args, kwargs), inputs, tolerance_of(inputs)):
                return copied(output)
            return forward(*args, **kwargs)

        return run


def _comparison(name: str, form: nn.Module) -> Any:
    def compare(layer: ReplacedLayer, args: Any, kwargs: Any, output: Tensor) -> None:
        ours = form.forward(*args, **kwargs)  # not its hooks, which have been
        if ours.shape != output.shape or ours.dtype != output.dtype:
            raise HalutError(
                f"{name} prepared answers {ours.dtype} {list(ours.shape)}, "
                f"not {output.dtype} {list(output.shape)}"
            )
        if not output.numel() or not bool(output.isfinite().all()):
            return
        far = (ours.double() - output.double()).abs()
        far = (far if layer.site.geometry is None else far.movedim(1, -1)).flatten(0, -2)
        near = tolerance(output.dtype)
        terms = form.magnitude() if isinstance(form, InferenceLayer) else 0.0
        most = 100 * near * output.double().abs().max() + near * terms
        most += torch.finfo(output.dtype).tiny  # below, floats round more coarsely
        wrong = int((~(far.amax(-1) <= most)).sum())
        if wrong > max(1, CODES.get(output.dtype, 0.3) * len(far)):
            raise HalutError(
                f"{name} prepared answers {wrong} of {len(far)} rows otherwise than it does"
            )

    return compare


# -- graphs ---------------------------------------------------------------------------------------


class Recorder(fx.Interpreter):
    """Runs a traced network, and keeps copies of the values of some nodes, by name."""

    def __init__(self, network: fx.GraphModule, names: Collection[str] = ()) -> None:
        super().__init__(network, garbage_collect_values=True)
        self.names = names
        self.values: dict[str, Any] = {}
        self.tensors: dict[str, tuple[torch.Size, torch.dtype]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.tensors[n.name] = value.shape, value.dtype
        if n.name in self.names:
            self.values[n.name] = copied(value)
        return value


class Forced(fx.Interpreter):
    """Runs a rewritten network; every changed node answers the recorded value instead of its own.

    failed: the nodes whose own values differ.
    """

    def __init__(self, folding: Folding, values: dict[str, Any]) -> None:
        super().__init__(folding.network)
        self.names = {n.name: folding.answers(n) for n in folding.steps}
        self.values = values
        self.failed: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        expected = self.values.get(self.names.get(n.name) or "")
        if not isinstance(expected, Tensor):
            return super().run_node(n)
        try:
            value = super().run_node(n)
        except Exception:
            value = None
        if not isinstance(value, Tensor) or not _close(value, expected, tolerance(expected.dtype)):
            self.failed.append(n.name)
            return expected.clone()
        return value.copy_(expected)  # as it lies in memory: what follows may depend on that


def shapes_of(network: fx.GraphModule, calls: Sequence[Arguments]) -> Shapes:
    """Shapes and dtypes of all tensors of a graph, a list over the calls."""
    shapes: dict[str, list[tuple[torch.Size, torch.dtype]]] = {}
    for call in calls:
        recorder = Recorder(network)
        recorder.run(*copied(call))
        for name, kind in recorder.tensors.items():
            shapes.setdefault(name, []).append(kind)
    return {name: kinds for name, kinds in shapes.items() if len(kinds) == len(calls)}


def verified_folding(
    network: fx.GraphModule, calls: Sequence[Arguments], additions: bool = True
) -> tuple[Folding, list[Step]]:
    """The folded form of a traced network, and the steps left out as they would change answers."""
    shapes = shapes_of(network, calls) if additions and calls else None
    omitted: list[Step] = []
    while True:
        folding = Folding(network, shapes, omitted)
        wrong = set(_wrong_steps(network, folding, calls)) - set(omitted)
        if not wrong:
            return folding, omitted
        omitted += sorted(wrong)


def _wrong_steps(
    network: fx.GraphModule, folding: Folding, calls: Sequence[Arguments]
) -> Iterator[Step]:
    steps = {node.name: steps for node, steps in folding.steps.items()}
    names = {name for node in folding.steps if (name := folding.answers(node)) is not None}
    for call in calls:
        recorder = Recorder(network, names)
        expected = recorder.run(*copied(call))
        forced = Forced(folding, recorder.values)
        try:
            output, reason = forced.run(*copied(call)), None
        except Exception as error:
            output, reason = None, error
        for name in forced.failed:
            yield steps[name][-1]
        right = reason is None and same(output, expected, tolerance_of(expected))
        if not forced.failed and not right:
            # Nobody's value is wrong, but one lies or changes otherwise: the last kind has to go.
            all_steps = [step for group in steps.values() for step in group]
            last = max((KINDS.index(kind) for kind, _ in all_steps), default=None)
            if last is None:
                return
            yield from (step for step in all_steps if step[0] == KINDS[last])

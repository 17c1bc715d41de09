"""The CUDA kernels on a GPU: parity, gradients, streams, graphs, autocast, layouts, memory."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from halut.ops import (
    accumulate,
    forced,
    nearest_encode,
    nearest_matmul,
    scatter_add,
    tree_encode,
    tree_matmul,
)
from halut.ops.core import checks, dispatch
from halut.ops.cuda import launch
from tests.cuda import sanitized_gpu
from tests.cuda.cuda_cases import CASES, Case, assert_alike, expected, on_gpu, run
from tests.cuda.cuda_launches import launches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not launch.available(), reason="needs cupy-cuda13x"
    ),
]


def arguments(each: Case, shift: int = 0) -> tuple:
    """The case's arguments on the GPU, of the same strides."""
    return tuple(on_gpu(value, shift) for value in each.make())


@pytest.fixture(params=[4, None], ids=["few", "all"])
def processors(request, monkeypatch):
    """A GPU of four multiprocessors: small grids fill it, and take the kernels of large ones."""
    if request.param:
        monkeypatch.setattr(launch, "processors", lambda device: request.param)


@pytest.mark.parametrize("each", CASES, ids=str)
def test_equal_to_torch(each, processors):
    inputs = arguments(each)
    for ours, theirs in zip(inputs, each.make(), strict=True):
        assert not isinstance(ours, Tensor) or ours.stride() == theirs.stride()
    assert_alike(each, run(each, "cuda", inputs), expected(each))


@pytest.mark.parametrize("each", CASES[::2], ids=str)
def test_addresses_need_not_be_aligned(each, processors):
    reference = expected(each)
    for shift in (1, 3):
        assert_alike(each, run(each, "cuda", arguments(each, shift)), reference)


LAYERS = [each for each in CASES if each.operation in ("tree_layer", "nearest_layer")]


@pytest.mark.parametrize("each", LAYERS, ids=str)
def test_prepared_layers_answer_again_and_again(each):
    (entry,) = dispatch._candidates(each.operation, "cuda", "cuda")
    x, *rest = arguments(each)
    constants = 9 if each.operation == "tree_layer" else 10
    prepared = entry.prepare(x, *rest[:constants])
    for _ in range(2):
        assert_alike(each, (prepared(x, *rest[constants:]),), expected(each))


def test_chunks_of_rows_and_images_change_nothing(monkeypatch):
    cases = [e for e in CASES if e.operation in ("tree_gradient", "nearest_gradient")]
    monkeypatch.setitem(checks.WORKSPACE, "cuda", 1 << 16)
    for each in cases:
        assert_alike(each, run(each, "cuda", arguments(each)), expected(each))


def test_gradients_of_many_rows_are_made_in_chunks():
    """dE of 40,000 rows, 32 codebooks and 16 prototypes is more than one workspace."""
    N, GC, K, M = 40_000, 32, 16, 8
    assert checks.workspace(torch.device("cuda")) < 4 * N * GC * K
    values = tree(N, GC, K, M)
    ours = gradients(values, tree_product)
    with forced("torch"):
        theirs = gradients(values, tree_product)
    for one, other in zip(ours, theirs, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3 * scale)


def test_subnormal_numbers_are_numbers():
    x = torch.full((64, 4), 1e-40, device="cuda")
    codes = tree_encode(x, torch.arange(4, device="cuda"), torch.zeros(1, 15, device="cuda"))
    assert codes.eq(15).all()  # more than 0 at every level


def test_an_input_of_2_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 6 << 30:
        pytest.skip("needs 6 GiB of GPU memory")
    x = torch.zeros(2**27 + 3, 16, dtype=torch.int8, device="cuda")
    x[-3:] = torch.randint(-50, 50, (3, 16), dtype=torch.int8, device="cuda")
    taps = torch.arange(16, device="cuda")
    thresholds = torch.randn(4, 15, device="cuda") * 20
    codes = tree_encode(x, taps, thresholds)
    assert torch.equal(codes[-3:], tree_encode(x[-3:].clone(), taps, thresholds))


def test_memory_of_another_stream_is_not_taken_early():
    """Codes and answers are of the stream that runs the layer, whoever's the input is."""
    each = next(e for e in LAYERS if "contiguous" in e.label)
    (entry,) = dispatch._candidates(each.operation, "cuda", "cuda")
    x, *rest = arguments(each)
    prepared, reference = entry.prepare(x, *rest[:9]), expected(each)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    answers = []
    for _ in range(50):
        with torch.cuda.stream(side):
            answers.append(prepared(x, *rest[9:]))
        prepared(x, *rest[9:])
    side.synchronize()
    for answer in answers:
        assert_alike(each, (answer,), reference)


def test_threads_share_a_layer():
    each = next(e for e in LAYERS if "residual" in e.label)
    (entry,) = dispatch._candidates(each.operation, "cuda", "cuda")
    x, *rest = arguments(each)
    prepared, reference = entry.prepare(x, *rest[:9]), expected(each)
    answers = []

    def work():
        for _ in range(50):
            answers.append(prepared(x, *rest[9:]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 200
    for answer in answers:
        assert_alike(each, (answer,), reference)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_of_the_second_device_are_worked_on_there():
    values = [value.to("cuda:1") for value in tree()]
    answer = tree_product(values)
    assert answer.device.index == 1
    torch.testing.assert_close(answer.cpu(), tree_product(tree()).cpu())


@pytest.mark.parametrize("each", CASES[::7], ids=str)
def test_dispatch_prefers_the_kernels(each):
    entry = dispatch._candidates(each.operation, "cuda", None)[0]
    assert entry.name == "cuda"
    assert entry.supports is None or entry.supports(*arguments(each))


def tree(N=300, GC=12, K=16, M=20, device="cuda"):
    torch.manual_seed(1)
    x, taps = torch.randn(N, 40), torch.randint(0, 40, (GC * 4,))
    thresholds, lut = torch.randn(GC, K - 1), torch.randn(1, GC, K, M)
    return [value.to(device) for value in (x, taps, thresholds, lut, torch.full((GC,), 0.7))]


def nearest(N=300, C=9, K=16, M=20, device="cuda"):
    torch.manual_seed(2)
    x, prototypes, lut = torch.randn(N, C * 4), torch.randn(C, K, 4), torch.randn(1, C, K, M)
    return [value.to(device) for value in (x, prototypes, lut, torch.full((C,), 0.7))]


def gradients(values: list[Tensor], product) -> list[Tensor]:
    leaves = [v.detach().requires_grad_(v.is_floating_point()) for v in values]
    product(leaves).square().sum().backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def tree_product(v):
    x, taps, thresholds, lut, tau = v
    return tree_matmul(x, taps, thresholds, lut, lut.detach(), tau)


def nearest_product(v):
    x, prototypes, lut, tau = v
    return nearest_matmul(x, prototypes, lut, lut.detach(), tau)


@pytest.mark.parametrize(("draw", "product"), [(tree, tree_product), (nearest, nearest_product)])
def test_gradients_equal_those_of_torch(draw, product):
    ours = gradients(draw(), product)
    with forced("torch"):
        theirs = gradients(draw(), product)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


def test_kernels_run_on_the_current_stream():
    """Work queued behind a long wait on a side stream sees what was written there."""
    x, taps, thresholds, *_ = tree()
    expected = tree_encode(x, taps, thresholds)
    torch.cuda.synchronize()
    stream, late = torch.cuda.Stream(), torch.zeros_like(x)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        codes = tree_encode(late, taps, thresholds)
    stream.synchronize()
    assert torch.equal(codes, expected)


@pytest.mark.parametrize(("draw", "product"), [(tree, tree_product), (nearest, nearest_product)])
def test_a_training_step_is_captured_in_a_graph(draw, product):
    leaves = [v.detach().requires_grad_(v.is_floating_point()) for v in draw()]

    def step():
        for leaf in leaves:
            leaf.grad = None
        product(leaves).square().sum().backward()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        leaves[0].copy_(torch.randn_like(leaves[0]))
    graph.replay()
    torch.cuda.synchronize()
    replayed = [leaf.grad.clone() for leaf in leaves if leaf.grad is not None]
    step()
    for one, leaf in zip(replayed, (leaf for leaf in leaves if leaf.grad is not None), strict=True):
        torch.testing.assert_close(one, leaf.grad, rtol=1e-3, atol=1e-3)


def test_autocast_does_not_round_codes_or_sums():
    values = tree()
    expected = tree_product(values)
    with torch.autocast("cuda", dtype=torch.float16):
        assert torch.equal(tree_product(values), expected)


def test_deterministic_algorithms_repeat_bits():
    torch.manual_seed(3)
    codes = torch.randint(0, 16, (20_000, 8), dtype=torch.uint8, device="cuda")
    grad = torch.randn(20_000, 64, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        answers = [scatter_add(codes, grad, 1, 16) for _ in range(5)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(answers[0], each) for each in answers[1:])


def test_operators_pass_opcheck():
    x, taps, thresholds, lut, _ = tree(N=9)
    codes = tree_encode(x, taps, thresholds)
    check = torch.library.opcheck
    check(torch.ops.halut.tree_encode.default, (x, taps, thresholds, []))
    check(torch.ops.halut.accumulate.default, (codes, lut.requires_grad_()))
    grad = torch.randn(9, 20, device="cuda", requires_grad=True)
    check(torch.ops.halut.scatter_add.default, (codes, grad, 1, 16))
    x, prototypes, *_ = nearest(N=9)
    check(torch.ops.halut.nearest_encode.default, (x, prototypes, "l2", 1, []))


def test_inputs_need_not_be_contiguous():
    x, taps, thresholds, lut, _ = tree()
    codes = tree_encode(x, taps, thresholds)
    assert torch.equal(tree_encode(x.t().contiguous().t(), taps, thresholds), codes)
    spread = torch.zeros(len(codes), 2 * codes.shape[1], dtype=torch.uint8, device="cuda")
    spread[:, ::2] = codes
    turned = lut.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(accumulate(spread[:, ::2], turned), accumulate(codes, lut))
    x, prototypes, *_ = nearest()
    turned = prototypes.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(nearest_encode(x, turned, "l2"), nearest_encode(x, prototypes, "l2"))


def test_answers_beyond_2_to_the_31_elements():
    N, M = 2**21 + 77, 1024
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GiB of GPU memory")
    codes = torch.randint(0, 2, (N, 1), dtype=torch.uint8, device="cuda")
    table = torch.randint(-50, 50, (1, 1, 2, M), dtype=torch.int8, device="cuda")
    sums = accumulate(codes, table)
    expected = table[0, 0][codes[-77:, 0].long()].int()
    assert torch.equal(sums[-77:], expected)


@pytest.fixture(scope="module")
def sanitizer():
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("needs compute-sanitizer")
    if reason := sanitized_gpu.refusal():
        pytest.skip(f"compute-sanitizer does not work here: {reason}")


@pytest.mark.parametrize("tool", sanitized_gpu.TOOLS)
def test_clean_under_compute_sanitizer(sanitizer, tool):
    done = sanitized_gpu.watched(tool, str(Path(sanitized_gpu.__file__)))
    assert done.returncode == 0, done.stdout[-6000:]
    (ran,) = (line for line in done.stdout.splitlines() if line.startswith("ran: "))
    assert set(ran.split()[1:]) == {kernel for each in CASES for _, kernel in launches(each)}

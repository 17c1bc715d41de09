"""The table product and its scatter-add against their oracles."""

import pytest
import torch

from halut.errors import HalutError
from halut.ops import accumulate, forced, implementations, scatter_add
from halut.ops.lookup import accumulate as lookup
from tests.oracles.lookup import accumulate_reference, scatter_add_reference

SHAPES = [  # N, G, C, K, M
    (40, 1, 5, 16, 7),
    (33, 3, 2, 8, 4),
    (9, 4, 1, 2, 1),
    (300, 1, 3, 256, 2),
    (1, 1, 1, 2, 1),
    (0, 2, 3, 4, 5),
]


def draw(N, G, C, K, M, dtype=torch.float64):
    torch.manual_seed(N + 7 * C)
    codes = torch.randint(0, K, (N, G * C), dtype=torch.uint8)
    return codes, torch.randn(G, C, K, M, dtype=dtype), torch.randn(N, G * M, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_to_the_oracles(shape, dtype):
    codes, table, grad = draw(*shape, dtype)
    torch.testing.assert_close(accumulate(codes, table), accumulate_reference(codes, table))
    _, G, _, K, _ = shape
    torch.testing.assert_close(
        scatter_add(codes, grad, G, K), scatter_add_reference(codes, grad, G, K)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_operators_pass_opcheck(shape):
    codes, table, grad = draw(*shape)
    torch.library.opcheck(torch.ops.halut.accumulate.default, (codes, table.requires_grad_()))
    torch.library.opcheck(
        torch.ops.halut.scatter_add.default, (codes, grad.requires_grad_(), shape[1], shape[3])
    )


def test_gradients_of_both():
    codes, table, grad = draw(11, 2, 3, 4, 2)
    assert torch.autograd.gradcheck(lambda t: accumulate(codes, t), table.requires_grad_())
    assert torch.autograd.gradcheck(lambda g: scatter_add(codes, g, 2, 4), grad.requires_grad_())


def test_gradient_of_a_sum_is_the_count_of_each_code():
    codes, table, _ = draw(50, 1, 3, 4, 2, torch.float32)
    accumulate(codes, table.requires_grad_()).sum().backward()
    counts = torch.stack([torch.bincount(column.long(), minlength=4) for column in codes.t()])
    assert torch.equal(table.grad, counts[None, :, :, None].expand(1, 3, 4, 2).float())


def test_int8_sums_are_exact_at_the_extremes():
    codes = torch.randint(0, 16, (3, 70_000), dtype=torch.uint8)
    table = torch.full((1, 70_000, 16, 2), -128, dtype=torch.int8)
    table[..., 1] = 127
    sums = accumulate(codes, table)
    assert sums.dtype == torch.int32
    assert sums.tolist() == [[-128 * 70_000, 127 * 70_000]] * 3
    table = torch.randint(-128, 128, (2, 6, 16, 5), dtype=torch.int8)
    codes = torch.randint(0, 16, (20, 12), dtype=torch.uint8)
    assert torch.equal(accumulate(codes, table), accumulate_reference(codes, table))


def test_int8_sums_stay_exact_where_float32_would_round(monkeypatch):
    monkeypatch.setattr(lookup, "EXACT_CODEBOOKS", 4)
    codes = torch.randint(0, 16, (20, 2 * 11), dtype=torch.uint8)
    table = torch.randint(-128, 128, (2, 11, 16, 5), dtype=torch.int8)
    assert torch.equal(accumulate(codes, table), accumulate_reference(codes, table))


def test_rows_in_chunks_equal_rows_at_once(monkeypatch):
    codes, table, grad = draw(100, 2, 3, 8, 5)
    expected = accumulate(codes, table), scatter_add(codes, grad, 2, 8)
    monkeypatch.setattr(lookup, "ENTRIES", 50)
    torch.testing.assert_close(accumulate(codes, table), expected[0])
    torch.testing.assert_close(scatter_add(codes, grad, 2, 8), expected[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_tables_are_summed_in_float32(dtype):
    codes, table, _ = draw(20, 1, 200, 16, 3, torch.float32)
    table = table.to(dtype).requires_grad_()
    y = accumulate(codes, table)
    assert y.dtype == dtype
    exact = accumulate_reference(codes, table.detach().float())
    assert torch.equal(y, exact.to(dtype))
    y.sum().backward()
    assert table.grad.dtype == dtype


@pytest.mark.parametrize(
    ("codes", "table", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(1, 3, 4, 2), "codes must be uint8"),
        (torch.zeros(2, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 2), r"\[N, 3\]"),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(3, 4, 2), r"\[G, C, K, M\]"),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(1, 3, 1, 2), "K must be in 2..256"),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 0), "not empty"),
        (torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 2).int(), "floating or int8"),
        (
            torch.zeros(2, 3, dtype=torch.uint8),
            torch.zeros(1, 3, 4, 2, device="meta"),
            "different devices",
        ),
    ],
)
def test_wrong_arguments_are_named(codes, table, message):
    with pytest.raises(HalutError, match=message):
        accumulate(codes, table)


def test_scatter_add_names_wrong_arguments():
    codes, grad = torch.zeros(4, 6, dtype=torch.uint8), torch.zeros(4, 6)
    with pytest.raises(HalutError, match="4 groups divide neither"):
        scatter_add(codes, grad, 4, 16)
    with pytest.raises(HalutError, match="equal rows"):
        scatter_add(codes, grad[:3], 2, 16)
    with pytest.raises(HalutError, match="grad must be floating"):
        scatter_add(codes, grad.int(), 2, 16)
    with pytest.raises(HalutError, match=r"2\.\.256"):
        scatter_add(codes, grad, 2, 257)


def test_implementations_are_named_and_can_be_forced():
    assert implementations()["accumulate"] in ("torch", "cpu")
    assert set(implementations("cuda")) == set(implementations("cpu"))
    codes, table, _ = draw(*SHAPES[0])
    with forced("torch"):
        assert implementations()["scatter_add"] == "torch"
        accumulate(codes, table)
    with pytest.raises(HalutError, match=r"choose one of: .*'torch'"), forced("abacus"):
        pass

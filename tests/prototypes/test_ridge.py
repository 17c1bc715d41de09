"""Ridge refinement against the textbook formula, and what it is worth."""

import pytest
import torch

from halut.errors import HalutError
from halut.ops.blocks import Blocks
from halut.prototypes import ridge
from halut.prototypes.buckets import bucket_means, reconstruct
from halut.prototypes.ridge import blockwise_lut, refine, refine_prototypes
from halut.prototypes.tree_learning import learn_trees


def tree_codes(rows, split_dims, thresholds):
    codes = torch.zeros(len(rows), len(split_dims), dtype=torch.long)
    for level in range(split_dims.shape[1]):
        t = thresholds[torch.arange(len(split_dims)), 2**level - 1 + codes]
        codes = 2 * codes + (rows[:, split_dims[:, level]] > t)
    return codes


def case(D, C, groups, M=5, K=4, N=60, dtype=torch.float64):
    generator = torch.Generator().manual_seed(D * C + groups)
    blocks = Blocks(D, C, groups)
    rows = torch.randn(N, groups * D, generator=generator, dtype=dtype)
    codes = torch.randint(0, K, (N, groups * C), generator=generator)
    weight = torch.randn(groups * M, D, generator=generator, dtype=dtype)
    empty = torch.zeros(groups * C, K, blocks.V, dtype=dtype)
    return blocks, rows, codes, weight, bucket_means(rows, codes, blocks, empty)


def textbook(blocks, rows, codes, weight, prototypes, lam):
    """Full prototypes [groups, C K, D] and their table, with G, P0 and inverses written out."""
    C, D, K = blocks.C, blocks.D, prototypes.shape[1]
    full, tables = [], []
    for g in range(blocks.groups):
        P0 = torch.zeros(C * K, D, dtype=rows.dtype)
        for c in range(C):
            start, width = blocks.starts[c], blocks.widths[c]
            P0[c * K : (c + 1) * K, start : start + width] = prototypes[g * C + c, :, :width]
        one_hot = torch.nn.functional.one_hot(codes[:, g * C : (g + 1) * C], K)
        G = one_hot.to(rows.dtype).reshape(len(rows), -1)
        X = rows[:, g * D : (g + 1) * D]
        inverse = torch.linalg.inv(G.T @ G + lam * torch.eye(C * K, dtype=rows.dtype))
        full.append(P0 + inverse @ G.T @ (X - G @ P0))
        tables.append(full[-1] @ weight.view(blocks.groups, -1, D)[g].T)
    M = weight.shape[0] // blocks.groups
    return torch.cat(full).view(-1, K, D), torch.stack(tables).view(blocks.groups, C, K, M)


@pytest.mark.parametrize(("D", "C", "groups"), [(6, 2, 1), (7, 3, 2), (5, 5, 1), (4, 1, 3)])
@pytest.mark.parametrize("lam", [1e-3, 1.0, 50.0])
def test_equals_the_textbook(D, C, groups, lam, monkeypatch):
    monkeypatch.setattr(ridge, "SLICE", 64)  # several slices of rows
    monkeypatch.setattr(ridge, "PANEL", 3)  # several panels of G'G
    blocks, rows, codes, weight, prototypes = case(D, C, groups)
    full, lut = textbook(blocks, rows, codes, weight, prototypes, lam)
    got = refine(codes, prototypes, rows, weight, lam)
    torch.testing.assert_close(got, lut, rtol=1e-9, atol=1e-9)
    got_full = refine_prototypes(codes, prototypes, rows, groups, lam)
    torch.testing.assert_close(got_full, full, rtol=1e-9, atol=1e-9)


def test_float32_rows_come_close_to_the_textbook():
    blocks, rows, codes, weight, prototypes = case(12, 4, 1, K=8, N=2000)
    _, lut = textbook(blocks, rows, codes, weight, prototypes, 1.0)
    got = refine(codes, prototypes.float(), rows.float(), weight.float(), 1.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, lut.float(), rtol=1e-4, atol=1e-4)


def test_no_lambda_is_the_blockwise_product():
    blocks, rows, codes, weight, prototypes = case(7, 3, 2)
    lut = refine(codes, prototypes, rows, weight, None)
    assert torch.equal(lut, blockwise_lut(prototypes, weight, blocks))
    W = weight.view(2, -1, 7)
    for g in range(2):
        for c in range(3):
            start, width = blocks.starts[c], blocks.widths[c]
            expected = prototypes[g * 3 + c, :, :width] @ W[g, :, start : start + width].T
            torch.testing.assert_close(lut[g, c], expected)


def correlated(N, D, seed):
    """Rows of a Gaussian whose neighboring inputs have correlation 0.9."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(N, D, generator=generator)
    rows = [noise[:, 0]]
    for d in range(1, D):
        rows.append(0.9 * rows[-1] + 0.19**0.5 * noise[:, d])
    return torch.stack(rows, dim=1)


def normalized_error(codes, lut, rows, weight):
    C = lut.shape[1]
    y = lut[0, torch.arange(C), codes].sum(1)
    exact = rows @ weight.T
    return float((y - exact).square().sum() / exact.square().sum())


@pytest.fixture(scope="module")
def learned():
    blocks = Blocks(32, 4)
    rows, fresh = correlated(4000, 32, seed=0), correlated(2000, 32, seed=1)
    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(2))
    trees = learn_trees(rows, blocks, depth=4)
    other = learn_trees(correlated(4000, 32, seed=3).flip(1), blocks, depth=4)
    return rows, fresh, weight, trees, other


def test_refinement_lowers_the_error_on_fresh_rows(learned):
    rows, fresh, weight, (dims, thresholds, prototypes), _ = learned
    codes, fresh_codes = (tree_codes(x, dims, thresholds) for x in (rows, fresh))
    plain, refined, validated = (
        normalized_error(fresh_codes, refine(codes, prototypes, rows, weight, lam), fresh, weight)
        for lam in (None, 1.0, "cv")
    )
    assert refined < 0.9 * plain
    assert validated < 0.9 * plain
    assert plain < 1


def test_a_table_of_another_encoding_is_worse_than_nothing(learned):
    # The costliest mistake of earlier systems: their normalized errors were 1.95 and 0.40.
    rows, fresh, weight, (dims, thresholds, prototypes), (other_dims, other_thresholds, _) = learned
    lut = refine(tree_codes(rows, dims, thresholds), prototypes, rows, weight, 1.0)
    right = normalized_error(tree_codes(fresh, dims, thresholds), lut, fresh, weight)
    wrong_codes = tree_codes(fresh, other_dims, other_thresholds).flip(1)
    wrong = normalized_error(wrong_codes, lut, fresh, weight)
    assert right < 0.5
    assert wrong > 1  # answering zero everywhere has an error of one


def test_cross_validation_shrinks_where_rows_are_few():
    blocks, rows, codes, weight, _ = case(24, 12, 1, K=8, N=40)
    rows = rows * 0 + torch.randn(40, 24, generator=torch.Generator().manual_seed(9)).double()
    empty = torch.zeros(12, 8, 2, dtype=torch.float64)
    prototypes = bucket_means(rows, codes, blocks, empty)
    base = refine(codes, prototypes, rows, weight, None)
    change = [
        float((refine(codes, prototypes, rows, weight, lam) - base).norm()) for lam in ("cv", 0.1)
    ]
    assert change[0] < 0.5 * change[1]  # codes are noise here: nothing should be fitted to them


def test_one_row_and_empty_buckets_stay_finite():
    blocks, rows, codes, weight, prototypes = case(6, 2, 1, N=1)
    for lam in (None, 1.0, "cv"):
        assert refine(codes, prototypes, rows, weight, lam).isfinite().all()
    rebuilt = reconstruct(codes, prototypes, blocks)
    torch.testing.assert_close(rebuilt, rows)


@pytest.mark.parametrize("lam", [0.0, -1.0, "often", float("nan")])
def test_bad_lambdas_are_refused(lam):
    _, rows, codes, weight, prototypes = case(6, 2, 1)
    with pytest.raises(HalutError, match="lam must be"):
        refine(codes, prototypes, rows, weight, lam)


def test_bad_shapes_and_values_are_refused():
    _, rows, codes, weight, prototypes = case(6, 2, 1)
    with pytest.raises(HalutError, match="do not fit"):
        refine(codes, prototypes, rows, weight[:, :4], 1.0)
    with pytest.raises(HalutError, match="do not fit"):
        refine(codes[:-1], prototypes, rows, weight, 1.0)
    rows[3, 2] = float("nan")
    with pytest.raises(HalutError, match="NaN"):
        refine(codes, prototypes, rows, weight, 1.0)

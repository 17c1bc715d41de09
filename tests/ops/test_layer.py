"""The inference operators equal their oracles, in every implementation, bit for bit."""

import pytest
import torch

from halut.errors import HalutError
from halut.ops import ConvGeometry, forced, nearest_layer, pack_table, tree_layer
from halut.ops.core.dispatch import available
from halut.ops.layer.encoded import window
from tests.ops.layer_cases import DTYPES, LAYOUTS, MAPS, ROWS, drawn_table, nearest_case, tree_case
from tests.oracles.layer import nearest_layer_reference, tree_layer_reference

CASES = [(shape, LAYOUTS[0]) for shape in ROWS] + [(s, f) for s in MAPS for f in LAYOUTS]
EMPTY = torch.empty(0, dtype=torch.uint8)


def without_packed(case):
    return (*case[:-3], *case[-2:])


def skip_unless(operation, implementation, *arguments):
    if implementation not in available(operation, "cpu", *arguments):
        pytest.skip(f"{implementation} leaves this to others")


def check_answer(y, expected, dtype, x):
    assert y.dtype == dtype
    assert torch.equal(y, expected)
    if x.ndim == 4:
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("implementation", available("tree_layer"))
@pytest.mark.parametrize(("shape", "layout"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_trees_equal_the_oracle(shape, layout, dtype, implementation):
    case, geometry = tree_case(shape, dtype, layout=layout)
    skip_unless("tree_layer", implementation, *case, None, torch.float32, geometry)
    with forced(implementation):
        packed = pack_table(case[3])
        for low, answer in [(None, torch.float32), (0.0, torch.int8), (-0.25, dtype)]:
            expected = tree_layer_reference(*without_packed(case), low, answer, geometry)
            for form in (packed, EMPTY):
                y = tree_layer(*case[:4], form, *case[5:], low, answer, geometry)
                check_answer(y, expected, answer, case[0])


@pytest.mark.parametrize("implementation", available("nearest_layer"))
@pytest.mark.parametrize(("shape", "layout"), CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_prototypes_equal_the_oracle(shape, layout, dtype, implementation):
    case, geometry = nearest_case(shape, dtype, layout=layout)
    skip_unless("nearest_layer", implementation, *case, None, torch.float32, geometry)
    with forced(implementation):
        packed = pack_table(case[4])
        for low, answer in [(None, torch.float32), (0.0, torch.int8)]:
            expected = nearest_layer_reference(*without_packed(case), low, answer, geometry)
            y = nearest_layer(*case[:5], packed, *case[6:], low, answer, geometry)
            check_answer(y, expected, answer, case[0])


@pytest.mark.parametrize("metric", ["l1", "chebyshev"])
def test_other_metrics(metric):
    (x, prototypes, _, *rest), _ = nearest_case(ROWS[0])
    expected = nearest_layer_reference(x, prototypes, metric, *without_packed(rest))
    assert torch.equal(nearest_layer(x, prototypes, metric, *rest), expected)


@pytest.mark.parametrize("shape", [ROWS[0], MAPS[0], MAPS[1]])
def test_float_tables(shape):
    case, geometry = tree_case(shape, table_dtype=torch.float32)
    expected = tree_layer_reference(*without_packed(case), 0.0, torch.float32, geometry)
    y = tree_layer(*case, 0.0, torch.float32, geometry)
    torch.testing.assert_close(y, expected)
    case, geometry = nearest_case(shape, table_dtype=torch.float32)
    expected = nearest_layer_reference(*without_packed(case), None, torch.float32, geometry)
    torch.testing.assert_close(nearest_layer(*case, geometry=geometry), expected)


@pytest.mark.parametrize("shape", [ROWS[0], MAPS[0]])
def test_no_rows_and_strided_inputs(shape):
    for operator, make in ((tree_layer, tree_case), (nearest_layer, nearest_case)):
        (x, *rest), geometry = make(shape)
        y = operator(x[:0], *rest, geometry=geometry)
        whole = operator(x, *rest, geometry=geometry)
        assert y.shape == (0, *whole.shape[1:])
        strided = torch.stack([x, x + 1], -1)[..., 0]
        assert torch.equal(operator(strided, *rest, geometry=geometry), whole)


@pytest.mark.parametrize(("shape", "layout"), [CASES[0], CASES[6], CASES[7], CASES[9]])
def test_operators_pass_opcheck(shape, layout):
    for name, make in (("tree_layer", tree_case), ("nearest_layer", nearest_case)):
        case, geometry = make(shape, layout=layout)
        operator = getattr(torch.ops.halut, name).default
        torch.library.opcheck(operator, (*case, 0.0, torch.float16, *window(geometry)))


class Two(torch.nn.Module):
    """A tree layer on a map, and a nearest-prototype layer on rows made of it."""

    def __init__(self):
        super().__init__()
        (_, *self.first), self.geometry = tree_case(MAPS[0])
        (_, *self.second), _ = nearest_case((1, 8, 1, 2, 16, 3))

    def forward(self, x):
        y = tree_layer(x * 2, *self.first, 0.0, torch.float32, self.geometry)
        return nearest_layer(y.permute(0, 2, 3, 1).reshape(-1, 8), *self.second)


def test_compiles_and_exports_as_one_graph():
    network, x = Two(), tree_case(MAPS[0])[0][0]
    expected = network(x)
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), expected)
        batch = {0: torch.export.Dim("batch", min=1, max=64)}
        program = torch.export.export(network, (x,), dynamic_shapes=(batch,))
        assert torch.equal(program.module()(x), expected)
        assert program.module()(torch.cat([x, x, x])).shape[0] == 3 * len(expected)


def test_gradients_are_refused():
    (x, *rest), _ = tree_case(ROWS[0])
    x.requires_grad_()
    with pytest.raises(HalutError, match="has no gradient"):
        tree_layer(x, *rest)
    with torch.no_grad():
        tree_layer(x, *rest)


def test_wrong_arguments_are_named():
    (x, taps, thresholds, table, *rest), _ = tree_case(ROWS[0])
    packed, scale, bias = rest
    geometry = ConvGeometry((3, 3))
    for message, arguments in {
        "x must be one of float32, ": (x.double(), taps, thresholds, table, *rest),
        "x must be rows": (x[0], taps, thresholds, table, *rest),
        "thresholds must be float32": (x, taps, thresholds[:, :7], table, *rest),
        "split_dims must be int64": (x, taps[:-1], thresholds, table, *rest),
        r"(taps|split_dims) must be (in 0\.\.19|columns of)": (
            x,
            taps + 20,
            thresholds,
            table,
            *rest,
        ),
        "table must be one of int8, float32": (x, taps, thresholds, table.int(), *rest),
        "power of two": (x, taps, thresholds, drawn_table(1, 5, 12, 7), *rest),
        "packed must be": (x, taps, thresholds, table, scale, scale, bias),
        "scale must be float32": (x, taps, thresholds, table, packed, scale.half(), bias),
        r"bias must be float32 \[7\]": (x, taps, thresholds, table, packed, scale, bias[:3]),
        "low must be a number": (x, taps, thresholds, table, *rest, float("nan")),
        "answer must be one of": (x, taps, thresholds, table, *rest, None, torch.float64),
        "different devices": (x, taps.to("meta"), thresholds, table, *rest),
        "x must be a map": (x, taps, thresholds, table, *rest, None, torch.float32, geometry),
    }.items():
        with pytest.raises(HalutError, match=message):
            tree_layer(*arguments)
    small = (x.view(1, 40, 4, 5), taps, thresholds, table, *rest, None, torch.float32)
    with pytest.raises(HalutError, match="smaller than"):
        tree_layer(*small, ConvGeometry((5, 5)))


def test_wrong_arguments_of_nearest_prototypes_are_named():
    (x, prototypes, metric, groups, *rest), _ = nearest_case(ROWS[0])
    with pytest.raises(HalutError, match="unknown metric 'l3'"):
        nearest_layer(x, prototypes, "l3", groups, *rest)
    with pytest.raises(HalutError, match="groups must be the table's 1"):
        nearest_layer(x, prototypes, metric, 2, *rest)
    with pytest.raises(HalutError, match="prototypes must be float32"):
        nearest_layer(x, prototypes[:, :, :2], metric, groups, *rest)


def test_a_table_of_other_strides_packs_alike():
    """Moving a network to channels_last restrides its tables, which have four dimensions too."""
    torch.manual_seed(0)
    table = torch.randint(-127, 128, (2, 16, 16, 12), dtype=torch.int8)
    other = table.to(memory_format=torch.channels_last)
    assert not other.is_contiguous()
    for _ in range(20):
        assert torch.equal(pack_table(other), pack_table(table))

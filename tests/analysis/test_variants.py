"""The final table: one row a network, accuracies and counts in columns of their own."""

from __future__ import annotations

import copy
import io

import pytest
from rich.console import Console

from halut.analysis.variants import prefixed, variants
from halut.training.report_tables import report_lines, stages_table, variants_table

REPORT = {
    "base": {"val_accuracy": 91.0, "test_accuracy": 90.5},
    "baseline": {"val_accuracy": 92.25, "test_accuracy": 91.75, "epochs": 3},
    "ptq": {
        name: {
            "library": "torchao", "weight_bits": bits, "activation_bits": 8, "left_exact": [],
            "macs": 1000, "bytes": size, "replacement_bytes": 2200, "exact_bytes": 4000,
            "val_accuracy": 80.0 + bits, "test_accuracy": 79.0 + bits,
        }
        for name, bits, size in (("int8", 8, 1000), ("int4", 4, 500))
    },
    "stages": [
        {
            "sites": ["a.conv", "b.conv"],
            "val_accuracy_before": 91.0, "val_accuracy_after_swap": 55.5,
            "val_accuracy_after_training": 88.125,
        }
    ],
    "final": {"val_accuracy": 88.125, "test_accuracy": 87.5},
    "sites": [{"operator": "tree"}, {"operator": "pq"}, {"operator": "tree"}],
    "cost": {
        "exact": {"macs": 1100, "weight_bytes": 4800, "table_bytes": 0},
        "replaced": {
            "macs": 100, "encode_compares": 40, "encode_macs": 7, "lookups": 300, "adds": 300,
            "weight_bytes": 900, "table_bytes": 2000,
        },
        "bits": {"weight_bits": 9.5, "activation_bits": 32.0, "bops": 110_000},
        "energies": {"name": "45nm", "source": "measured in a test"},
        "variants": {
            name: {
                "bytes": size, "operations": operations, "bops": bops, "weight_bits": 8.0,
                "energy": energy, "macs_outside": 100,
            }
            for name, size, operations, bops, energy in (
                ("exact", 4800, 1200, 1_228_800, 4e-6), ("int8", 1800, 1200, 200_000, 8.12e-7),
                ("int4", 1300, 1200, 150_000, 5e-7), ("plan", 3000, 547, 210_000, 2e-9),
            )
        },
    },
    "memory": {
        "before": {
            "replaced_weights": 3900, "replaced_biases": 100, "untouched": 800, "total": 4800,
        },
        "after": {
            "codes": 0, "tables": 2000, "scales": 100, "biases": 50, "encoders": 50,
            "untouched": 800, "total": 3000,
        },
        "weights": 975, "formula": None, "saving": 1.6,
    },
}  # fmt: skip


def printed(table, width=80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def cells(text: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


def test_every_network_has_its_row_and_every_figure_its_column():
    text = printed(variants_table(REPORT))
    header = next(line for line in text.splitlines() if "test" in line)
    assert [c.strip() for c in header.split("┃")[1:-1]] == [
        "variant", "val", "test", "bytes", "operations", "bit ops", "energy",
    ]  # fmt: skip
    assert cells(text) == [
        ["exact", "91.00", "90.50", "4,800", "1.2 k", "1.23 M", "4 uJ"],
        ["exact, fine-tuned", "92.25", "91.75", "4,800", "1.2 k", "1.23 M", "4 uJ"],
        ["INT8", "88.00", "87.00", "1,800", "1.2 k", "200 k", "812 nJ"],
        ["INT4", "84.00", "83.00", "1,300", "1.2 k", "150 k", "500 nJ"],
        ["ours (tree, pq)", "88.12", "87.50", "3,000", "547", "210 k", "2 nJ"],
    ]
    assert "energy at 45nm" in text.replace("\n", " ")


def test_a_report_without_costs_by_variant_has_them_from_other_places():
    earlier = copy.deepcopy(REPORT)
    del earlier["cost"]["variants"], earlier["cost"]["energies"]
    assert cells(printed(variants_table(earlier))) == [
        ["exact", "91.00", "90.50", "4,800", "1.1 k", "1.13 M", ""],
        ["exact, fine-tuned", "92.25", "91.75", "4,800", "1.1 k", "1.13 M", ""],
        ["INT8", "88.00", "87.00", "1,800", "1.1 k", "166 k", ""],  # 100 * 32^2 + 1000 * 8 * 8
        ["INT4", "84.00", "83.00", "1,300", "1.1 k", "134 k", ""],
        ["ours (tree, pq)", "88.12", "87.50", "3,000", "447", "110 k", ""],
    ]
    assert "energ" not in "\n".join(report_lines(earlier))


def test_the_stages_have_validation_alone_and_stand_in_a_table_of_their_own():
    text = printed(stages_table(REPORT))
    assert "validation" in text.splitlines()[0]
    assert "test" not in text
    assert cells(text) == [["00", "a.conv, b.conv", "91.00", "55.50", "88.12"]]


def test_figures_of_large_networks_fit_80_columns():
    large = copy.deepcopy(REPORT)
    large["sites"] = [{"operator": "decision_tree"}, {"operator": "binary_residual"}]
    cost = {"bytes": 2_847_123_456, "operations": 987_654_321_000, "bops": 1.01e15, "energy": 0.123}
    large["cost"]["variants"] = dict.fromkeys(("exact", "int8", "int4", "plan"), cost)
    large["final"] = large["base"] = {"val_accuracy": 100.0, "test_accuracy": 100.0}
    large["stages"][0]["sites"] = [f"stages.{i}.blocks.11.attn.qkv" for i in range(40)]
    for table in (variants_table(large), stages_table(large)):
        text = printed(table)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
    assert ["exact", "100.00", "100.00", "2.85 G", "988 G", "1.01 P", "123 mJ"] in cells(
        printed(variants_table(large))
    )


def test_what_was_not_run_has_no_row_and_what_is_not_known_an_empty_cell():
    bare = copy.deepcopy(REPORT)
    bare["baseline"] = {"epochs": 0, "val_accuracy": None, "test_accuracy": None}
    bare["ptq"] = {}
    assert [row["variant"] for row in variants(bare)] == ["exact", "ours (tree, pq)"]
    earlier = copy.deepcopy(REPORT)
    del earlier["cost"]["variants"], earlier["cost"]["energies"]
    del earlier["memory"], earlier["cost"]["bits"], earlier["baseline"]["val_accuracy"]
    del earlier["ptq"]["int8"]["macs"], earlier["ptq"]["int4"]
    earlier["cost"]["replaced"] = {"macs": 100, "encode_ops": 47, "lookups": 300, "adds": 300,
                                   "weight_bytes": 900, "table_bytes": 2000}  # fmt: skip
    assert cells(printed(variants_table(earlier)))[1:] == [
        ["exact, fine-tuned", "", "91.75", "", "1.1 k", "1.13 M", ""],
        ["INT8", "88.00", "87.00", "", "1.1 k", "", ""],
        ["ours (tree, pq)", "88.12", "87.50", "", "447", "", ""],
    ]
    assert "encoding 47 operations" in "\n".join(report_lines(earlier))


def test_encoding_is_split_in_words():
    lines = "\n".join(report_lines(REPORT))
    assert "exact: 1,100 multiply-adds, 4,800 bytes of weights\n" in lines
    assert "encoding 40 compares and 7 multiply-adds, 300 look-ups and adds" in lines
    assert "110,000 bit operations" in lines
    assert "outside of the sites, in the table's figures: 100 multiply-adds in float32" in lines
    assert "energies: 45nm, measured in a test" in lines


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (999.6, "1 k"), (1234, "1.23 k"), (999_600, "1 M"), (4e9, "4 G")],
)
def test_three_digits_and_a_prefix(count, text):
    assert prefixed(count) == text

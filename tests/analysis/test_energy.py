"""Energies: worked out by hand, and tables that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from halut.analysis.energy import FOLDER, energy, energy_tables, in_joules, load_energies
from halut.analysis.network_cost import planned_costs
from halut.analysis.work import Operation, Read, Work, work_of
from halut.errors import HalutError
from halut.replace.operator_registry import make_operator
from halut.sites.find import Site
from halut.sites.plan import KEEP, Entry, Plan

PICO = 1e-12
approx = pytest.approx
SITE = Site("fc", "linear", D=8, M=10, rows=3)


def entry(operator: str = KEEP, site: Site = SITE, **options) -> Entry:
    if operator == KEEP:
        return Entry(site, KEEP)
    return Entry(site, operator, make_operator(operator, **options).plan_options(site))


def work(operator: str = KEEP, site: Site = SITE, reuse: int | None = None, **options) -> Work:
    ((one, layer, cost),) = planned_costs(Plan((entry(operator, site, **options),)))
    return work_of(one.site, layer, cost, reuse)


def test_the_sources_values_at_45_nm():
    """Horowitz, ISSCC 2014: pJ of an operation, and of 64 bits from memories of 8, 32, 1024 KiB."""
    table = load_energies("45nm")
    assert [table.price(Operation("add", "int", b)) for b in (8, 32)] == [0.03, 0.1]
    assert [table.price(Operation("multiply", "int", b, b)) for b in (8, 32)] == [0.2, 3.1]
    assert [table.price(Operation("add", "fp", b)) for b in (16, 32)] == [0.4, 0.9]
    assert [table.price(Operation("multiply", "fp", b, b)) for b in (16, 32)] == [1.1, 3.7]
    assert [8 * table.read_price(1024 * k) for k in (8, 32, 1024)] == [10, 20, 100]
    assert 8 * table.dram == 1300


def test_the_sources_values_at_7_nm():
    """Jouppi et al., ISCA 2021."""
    table = load_energies("7nm")
    assert [table.price(Operation("add", "int", b)) for b in (8, 32)] == approx([0.007, 0.03])
    assert [table.price(Operation("multiply", "int", b, b)) for b in (8, 32)] == approx(
        [0.07, 1.48]
    )
    assert [table.price(Operation("add", "fp", b)) for b in (16, 32)] == [0.16, 0.38]
    assert [table.price(Operation("multiply", "fp", b, b)) for b in (16, 32)] == [0.34, 1.31]
    assert [8 * table.read_price(1024 * k) for k in (8, 32, 1024)] == [7.5, 8.5, 14]


def test_widths_between_those_of_the_source_are_interpolated():
    table = load_energies("45nm")
    assert table.price(Operation("add", "int", 4)) == 0.015
    assert table.price(Operation("add", "int", 20)) == approx((0.03 + 0.1) / 2)
    assert table.price(Operation("multiply", "int", 4, 8)) == 0.1
    assert table.price(Operation("multiply", "int", 1, 1)) == 0.2 / 64
    half = (64 + 1024) // 32 // 2
    assert table.price(Operation("multiply", "int", 32, half)) == approx((0.2 + 3.1) / 2)
    assert table.price(Operation("multiply", "fp", 8, 8)) == 1.1  # as the next that is listed


def test_memories_between_those_of_the_source_cost_as_the_next_larger():
    table = load_energies("45nm")
    prices = [table.read_price(size) for size in (1, 8192, 8193, 32769, 10**9)]
    assert prices == [1.25, 1.25, 2.5, 12.5, 12.5]
    reads = Work(reads=(Read(100, 10**9),))
    assert energy(reads, table)["energy"] == approx(1250 * PICO)
    assert energy(reads, table, bank=8192)["energy"] == approx(125 * PICO)


def test_an_exact_linear_by_hand():
    """3 rows, 8 inputs, 10 outputs in float32: 240 multiply-adds; the weight is read once, each row
    once; both lie in less than 8 KiB."""
    figures = energy(work(), load_energies("45nm"))
    compute, sram = 240 * (3.7 + 0.9), (4 * 80 + 4 * 3 * 8) * 1.25
    assert figures["energy_compute"] == approx(compute * PICO)
    assert figures["energy_sram"] == approx(sram * PICO)
    assert figures["energy"] == approx((compute + sram) * PICO)
    assert figures["energy_dram"] == approx(4 * 90 * 162.5 * PICO)
    each_row = energy(work(reuse=1), load_energies("45nm"))
    assert each_row["energy_sram"] == approx((3 * 4 * 80 + 4 * 3 * 8) * 1.25 * PICO)
    two_rows = energy(work(reuse=2), load_energies("45nm"))
    assert two_rows["energy_sram"] == approx((2 * 4 * 80 + 4 * 3 * 8) * 1.25 * PICO)


def test_integers_by_hand():
    """The same in 8 bits: products of bytes, sums of 32 bits; a byte read for each value."""
    figures = energy(work("integer", width=8), load_energies("45nm"))
    assert figures["energy_compute"] == approx(240 * (0.2 + 0.1) * PICO)
    ((_, _, cost),) = planned_costs(Plan((entry("integer", width=8),)))
    read = cost["weight_bits"] / 8 + 3 * 8
    assert 80 <= cost["weight_bits"] / 8 <= 80 + 40  # codes, and shared scales
    assert figures["energy_sram"] == approx(read * 1.25 * PICO)


def test_trees_by_hand():
    """3 rows, C 2, K 4, M 10: 12 compares of floats, each with a threshold and an input of 4 bytes;
    60 look-ups of a byte, 60 additions of 32 bits."""
    figures = energy(work("tree", C=2, K=4), load_energies("45nm"))
    assert figures["energy_compute"] == approx((12 * 0.1 + 60 * 0.1) * PICO)
    assert figures["energy_sram"] == approx((60 + 12 * 4 + 12 * 4) * 1.25 * PICO)
    floats = energy(work("tree", C=2, K=4, bits=None), load_energies("45nm"))
    assert floats["energy_compute"] == approx((12 * 0.1 + 60 * 0.9) * PICO)
    assert floats["energy_sram"] == approx((60 * 4 + 12 * 4 + 12 * 4) * 1.25 * PICO)
    narrow = energy(work("tree", C=2, K=4, bits=4), load_energies("45nm"))
    assert narrow["energy_sram"] == approx((60 / 2 + 12 * 4 + 12 * 4) * 1.25 * PICO)


def test_prototypes_by_hand():
    """3 rows, D 8, K 4, C 2: 96 multiply-adds, 18 compares; 32 prototype values are read once, the
    rows once."""
    figures = energy(work("pq", C=2, K=4), load_energies("45nm"))
    assert figures["energy_compute"] == approx((96 * (3.7 + 0.9) + 18 * 0.1 + 60 * 0.1) * PICO)
    assert figures["energy_sram"] == approx((60 + 4 * 32 + 4 * 24) * 1.25 * PICO)


def test_tables_in_a_large_memory_cost_more_to_look_up():
    large = Site("fc", "linear", D=512, M=2048)
    table = load_energies("45nm")
    per_lookup = [
        energy(work("tree", site, C=site.D // 4), table)["energy_sram"] / (site.D // 4 * site.M)
        for site in (Site("fc", "linear", D=8, M=16), large)
    ]
    assert per_lookup[1] > 3 * per_lookup[0]


def test_kinds_of_numbers_have_their_own_products():
    operations = {name: set(work(name).operations) for name in ("log", "minifloat_ieee", "prune")}
    assert not any(op.name == "multiply" for op in operations["log"])
    assert {op.kind for op in operations["minifloat_ieee"]} == {"fp"}
    assert Operation("multiply", "fp", 32, 32) in operations["prune"]
    mixed = work("integer", width=4, activation={"name": "integer", "width": 8})
    assert Operation("multiply", "int", 4, 8) in mixed.operations
    weights_alone = work("integer", width=4, activation=None)
    assert Operation("multiply", "fp", 32, 32) in weights_alone.operations


def test_attention_multiplies_its_two_products():
    """Of 2 heads with 5 tokens of 8 inputs each."""
    site = Site("attn", "attention", D=8, M=5, groups=3, bias=False, rows=20)
    integers = work("integer", site, width=8)
    assert integers.operations[Operation("multiply", "int", 8, 8)] == site.macs == 20 * 8 * 5
    assert work(site=site).operations[Operation("multiply", "fp", 32, 32)] == site.macs


def test_joules_in_words():
    values = (1.234e-12, 2.5e-9, 0.9996e-6, 4.864e-3, 2.0)
    assert [in_joules(v) for v in values] == ["1.23 pJ", "2.5 nJ", "1 uJ", "4.86 mJ", "2 J"]


def written(path: Path, **changes) -> Path:
    content = yaml.safe_load((FOLDER / "45nm.yaml").read_text())
    content.update(changes)
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def test_a_table_of_one_s_own(tmp_path):
    own = load_energies(written(tmp_path / "own.yaml", name="own", dram=31.25))
    assert (own.name, own.dram, own.add["int8"]) == ("own", 31.25, 0.03)
    assert energy_tables() == ["7nm", "45nm"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ad": {}}, r"own.yaml: unknown key 'ad'; did you mean add\? choose one of: name, source"),
        ({"add": {"int8": 1}}, "own.yaml: add: int32, fp16, fp32 is missing"),
        ({"add": {"int9": 1}}, "unknown format 'int9'; did you mean int8"),
        ({"dram": None}, "own.yaml: dram is missing"),
        ({"dram": -1}, "dram must be a positive number of pJ, got -1"),
        ({"sram": {8192: "much"}}, "sram.8192 must be a positive number of pJ, got 'much'"),
        ({"sram": {}}, "sram must be energies by bytes of memory"),
        ({"source": ""}, "source must be a text"),
        ({"multiply": 3}, "multiply: a mapping of int8, int32, fp16, fp32 is wanted, got 3"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(HalutError, match=message) as refusal:
        load_energies(written(tmp_path / "own.yaml", **changes))
    assert "\n" not in str(refusal.value)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(HalutError, match=r"unknown energy table '5nm'; .*45nm, or the path of"):
        load_energies("5nm")
    damaged = tmp_path / "own.yaml"
    for text in ("{", "- 1", "!!python/object/apply:os.getcwd []"):
        damaged.write_text(text)
        with pytest.raises(HalutError, match=r"own\.yaml"):
            load_energies(damaged)


def test_every_source_is_named():
    for name in energy_tables():
        table = load_energies(name)
        assert table.name == name
        assert "ISSCC 2014" in table.source or "ISCA 2021" in table.source

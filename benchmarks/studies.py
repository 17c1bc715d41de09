"""Pages, pictures and tables of the shipped studies, out of their stores alone.

python benchmarks/studies.py            (what benchmarks/studies/*.sh measured)

A study is a script of commands, studies/NAME.sh, and the store that they fill, studies/NAME. This
writes studies/NAME.html, pictures/NAME-*.svg and studies.md again; no figure comes from elsewhere.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from halut.errors import HalutError
from halut.io import write_bytes
from halut.page.document import write_page
from halut.page.gather import gather
from halut.page.pictures import write_pictures
from halut.results.record import Record
from halut.results.store import Store
from halut.studies.sensitivity_table import label_of, remarks, value_of

HERE = Path(__file__).parent
Rows = Sequence[Sequence[str]]


def markdown(head: Sequence[str], rows: Rows) -> list[str]:
    """A table in Markdown, numbers to the right."""
    right = "|".join(["---"] + ["---:"] * (len(head) - 1))
    return [
        f"| {' | '.join(head)} |",
        f"|{right}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def figure(records: Iterable[Record], name: str, form: str = "{:.2f}") -> str:
    """Mean of a figure, with the sample deviation of several; "-" where none is there."""
    values = [value for r in records if (value := r.figures.get(name)) is not None]
    if not values:
        return "-"
    mean = form.format(statistics.fmean(values))
    return f"{mean} ± {form.format(statistics.stdev(values))}" if len(values) > 1 else mean


def measured(records: Sequence[Record], kind: str) -> list[Record]:
    """Records of a kind that hold figures, without those that predict."""
    return [r for r in records if r.kind == kind and r.figures and r.score in ("measured", None)]


def alone(records: Sequence[Record], columns: Sequence[str]) -> list[str]:
    """Points lost by each site alone, how far the scores agree, and means for every C and K."""
    own = measured(records, "sensitivity")
    sites = dict.fromkeys(r.site for r in own)
    order = sorted(sites, key=lambda s: -statistics.fmean(lost(r for r in own if r.site == s)))
    cells = {(r.site, label_of(r)): r for r in own}
    labels = [c for c in columns if any(label == c for _, label in cells)]
    rows = [
        [
            f"`{site}`",
            *(figure([cells[site, c]], "lost") if (site, c) in cells else "-" for c in labels),
        ]
        for site in order
    ]
    images = {r.data.get("samples") for r in own}
    lines = remarks([r for r in records if r.kind == "sensitivity"])
    return [
        f"### Each layer alone, in points lost on {'/'.join(map(str, images))} validation samples",
        "",
        *markdown(["site", *labels], rows),
        *(f"{line}." for line in lines if line.startswith("Spearman")),
        "",
        *codebooks(own),
    ]


def predicted(records: Sequence[Record], columns: Sequence[str]) -> list[str]:
    """The rise of the loss that gradients predict, the most sensitive site first."""
    cells = {
        (r.site, label_of(r)): value
        for r in records
        if r.score == "fisher" and (value := value_of(r)) is not None
    }
    labels = [c for c in columns if any(label == c for _, label in cells)]
    rises = {
        site: statistics.fmean(cells[key] for key in cells if key[0] == site)
        for site in dict.fromkeys(site for site, _ in cells)
    }
    rows = [
        [f"`{site}`", *(f"{cells[site, c]:+.3f}" if (site, c) in cells else "-" for c in labels)]
        for site in sorted(rises, key=lambda site: -rises[site])
    ]
    return ["### Predicted rise of the loss", "", *markdown(["site", *labels], rows)]


def lost(records: Iterable[Record]) -> list[float]:
    """Points lost, of records that have them."""
    return [value for r in records if (value := r.figures.get("lost")) is not None]


def codebooks(records: Sequence[Record]) -> list[str]:
    """Points lost by codebooks C and prototypes K, a table for each encoder: means over the sites
    that can have every pair."""
    lines: list[str] = []
    for operator in dict.fromkeys(r.operator for r in records if "K" in r.options):
        own = [r for r in records if r.operator == operator and r.options.get("bits") == 8]
        cells = {(r.site, r.options["C"], r.options["K"]): r for r in own}
        cs, ks = (sorted({key[place] for key in cells}) for place in (1, 2))
        sites = [
            site
            for site in dict.fromkeys(site for site, _, _ in cells)
            if all((site, c, k) in cells for c in cs for k in ks)
        ]
        if not sites:
            continue
        rows = [
            [
                f"C = {c}",
                *(f"{statistics.fmean(lost(cells[s, c, k] for s in sites)):.2f}" for k in ks),
            ]
            for c in cs
        ]
        lines += [f"Mean over {len(sites)} sites, `{operator}`:", ""]
        lines += markdown(["", *(f"K = {k}" for k in ks)], rows)
    return lines


def together(records: Sequence[Record]) -> list[str]:
    """Whole networks, replaced at once: accuracy beside what it costs."""
    own = sorted(measured(records, "run"), key=lambda r: (str(r.operator), r.figures["bytes"] or 0))
    rows = [
        [
            " ".join([str(r.operator), *(f"{k}={v}" for k, v in asked(r))]),
            *(figure([r], name) for name in ("val_accuracy", "test_accuracy", "lost")),
            *(figure([r], name, "{:,.0f}") for name in ("bytes", "operations", "bops")),
        ]
        for r in own
    ]
    head = ["replaced by", "validation", "test", "lost", "bytes", "operations", "bit operations"]
    return ["### All at once, not trained", "", *markdown(head, rows)]


def asked(record: Record) -> list[tuple[str, object]]:
    """The options by which the rows of a sweep differ."""
    names = ("C", "V", "K", "bits", "width")
    own, settings = record.options, record.settings
    values = [(name, own.get(name, settings.get(f"halut.{name}"))) for name in names]
    return [(name, value) for name, value in values if value is not None]


def images(records: Sequence[Record]) -> list[str]:
    """Points lost, and the layer's error, by calibration samples; deviation over draws."""
    own = measured(records, "convergence")
    numbers = sorted({r.calibration for r in own if r.calibration is not None})
    lines = []
    for name, title, form in (
        ("lost", "points lost", "{:.2f}"),
        ("normalized_mse", "normalized squared error of the layer's output", "{:.4f}"),
    ):
        rows = [
            [
                f"`{site}`, {label}",
                *(
                    figure(
                        [
                            r
                            for r in own
                            if (r.site, label_of(r), r.calibration) == (site, label, n)
                        ],
                        name,
                        form,
                    )
                    for n in numbers
                ),
            ]
            for site, label in dict.fromkeys((r.site, label_of(r)) for r in own)
        ]
        lines += [f"### Calibration samples: {title}", ""]
        lines += markdown(["site", *map(str, numbers)], rows)
    return lines


def cost(records: Sequence[Record]) -> list[str]:
    """Costs of whole networks: exact, INT8, INT4 and every plan."""
    own = [r for r in measured(records, "cost") if r.site is None]
    rows = {}
    for r in own:
        plan = " ".join(f"{k}={v}" for k, v in r.settings.items() if k.startswith("halut"))
        variant = str(r.settings.get("variant"))
        rows[f"plan: {plan}" if variant == "plan" else variant] = [
            *(figure([r], n, "{:,.0f}") for n in ("bytes", "operations", "bops")),
            figure([r], "weight_bits"),
            f"{1e6 * (r.figures['energy'] or 0):.2f}",
        ]
    head = ["", "bytes", "operations", "bit operations", "bits a weight", "energy in uJ"]
    return ["### Cost of a sample", "", *markdown(head, [[k, *v] for k, v in rows.items()])]


UNDRAWN = ("front-seconds", "front-weight_bits")
"""Pictures that tell no more than the others here."""
SECTIONS: dict[str, Callable[[Sequence[Record]], list[str]]] = {
    "run": together,
    "convergence": images,
    "cost": cost,
}
"""By kind of record; single sites come first, and know their columns."""


def write(name: str, study: dict[str, object], folder: Path) -> list[str]:
    """The page and pictures of a study; its lines in Markdown."""
    store = HERE / "studies" / name
    page = gather([store], str(study["title"]))
    if not write_page(folder / "studies" / f"{name}.html", page):
        raise HalutError("the pages have charts: pip install 'halut[page]'")
    pictures = folder / "studies" / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = [f"## {study['title']}", "", str(study["text"]).strip(), ""]
    script = (HERE / "studies" / f"{name}.sh").read_text()
    lines += [f"`bash benchmarks/studies/{name}.sh`:", "", "```bash", script.rstrip(), "```", ""]
    with tempfile.TemporaryDirectory() as drawn:
        write_pictures(Path(drawn), page, ["svg"])
        for picture in sorted(Path(drawn).glob("*.svg")):
            if picture.stem in (*UNDRAWN, *study.get("undrawn", [])):  # type: ignore[misc]
                continue
            write_bytes(pictures / f"{name}-{picture.name}", picture.read_bytes())
            lines += [f"![{picture.stem}](studies/pictures/{name}-{picture.name})", ""]
    records = Store(store).read().records
    kinds = {r.kind for r in records}
    if "sensitivity" in kinds:
        columns = list(study["columns"])  # type: ignore[call-overload]
        lines += alone(records, columns)
        lines += predicted(records, columns) if study.get("predicted") else []
    for kind, section in SECTIONS.items():
        lines += section(records) if kind in kinds else []
    return lines


def main() -> None:
    """Write the pages, pictures and tables of every study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder that it is written to")
    folder = parser.parse_args().out
    content = yaml.safe_load((HERE / "studies" / "studies.yaml").read_text())
    lines = ["# Studies, measured", "", content["head"].strip(), ""]
    try:
        for name, study in content["studies"].items():
            lines += write(name, study, folder)
    except (HalutError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    write_bytes(folder / "studies.md", ("\n".join(lines).rstrip() + "\n").encode())


if __name__ == "__main__":
    main()

"""Tables of figures in Markdown, each made from files of benchmarks/."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CPU = "cpu-intel-xeon-processor"
CUDA = "cuda-nvidia-h200"
LAYERS = {
    "resnet18_3x3": "ResNet-18's 3x3 layers, one image",
    "resnet9_3x3": "ResNet-9's 3x3 layers, 128 images",
    "linear_v16": "ViT's Linear layers, V = 16",
    "linear_v8": "ViT's Linear layers, V = 8",
    "resnet18": "ResNet-18 whole, stem exact, one image",
}
CUDA_LAYERS = {
    "resnet18_3x3_b128": "ResNet-18's 3x3 layers, 128 images",
    "resnet18_3x3_b1": "ResNet-18's 3x3 layers, one image",
    "linear_v16_b64": "ViT-B's MLP, V = 16, 64 images",
    "linear_v8_b64": "ViT-B's MLP, V = 8, 64 images",
    "linear_v16_b1": "ViT-B's MLP, V = 16, one image",
    "linear_v8_b1": "ViT-B's MLP, V = 8, one image",
}
METHODS = {
    "ours": "tables",
    "ours_float16": "tables, float16 between layers",
    "float32": "exact, float32",
    "tf32": "exact, TF32",
    "float16": "exact, float16",
}


def table(root: Path, name: str) -> str:
    """The table of that name. Raises KeyError if there is none."""
    return TABLES[name](root / "benchmarks")


def read(folder: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return value


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; all columns but the first are numbers.

    >>> print(markdown(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    rule = "|".join(["---", *["---:"] * (len(head) - 1)])
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def ratio(value: float) -> str:
    """Two significant digits.

    >>> ratio(10.186), ratio(3.089), ratio(0.7606)
    ('10.2', '3.1', '0.76')
    """
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Mean and sample deviation.

    >>> spread([1.0, 2.0])
    '1.50 ± 0.71'
    """
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def shape(result: dict[str, Any]) -> str:
    """The size of a layer: "64 to 128, 16 x 16", or "197 rows, 768 to 768"."""
    size = result["shape"]
    if "N" in size:
        return f"{size['N']} rows, {size['D']} to {size['M']}"
    return f"3x3, {size['C_in']} to {size['M']}, {size['H']} x {size['W']}, batch {size['B']}"


def times(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Microseconds of every method, by the size of the layer."""
    found: dict[str, dict[str, float]] = {}
    for result in results:
        found.setdefault(shape(result), {})[result["method"]] = result["median_us"]
    return found


def cpu_speed(folder: Path) -> str:
    summary = read(folder, CPU)["summary"]
    keys = ("over_float32", "over_int8", "over_int8_amx")
    rows = [
        [text]
        + [ratio(part[suite][key]) for part in (summary, summary["threads_2"]) for key in keys]
        for suite, text in LAYERS.items()
    ]
    names = ("float32", "INT8", "INT8, AMX")
    head = ["", *(f"{n}, {t}" for t in ("1 thread", "2 threads") for n in names)]
    return markdown(head, rows)


def cpu_worst(folder: Path) -> str:
    summary = read(folder, CPU)["summary"]
    keys = ("over_float32_least", "over_int8_least", "over_int8_amx_least")
    parts = (summary, summary["threads_2"])
    rows = [
        [text] + [ratio(part[suite][key]) for part in parts for key in keys]
        for suite, text in LAYERS.items()
        if suite != "resnet18"
    ]
    names = ("float32", "INT8", "INT8, AMX")
    head = ["", *(f"{n}, {t}" for t in ("1 thread", "2 threads") for n in names)]
    return markdown(head, rows)


def cpu_training(folder: Path) -> str:
    summary = read(folder, CPU)["summary"]
    one, two = (part["train_step"]["over_exact"] for part in (summary, summary["threads_2"]))
    rows = [
        [f"{key.replace('x', ' to ')} channels", ratio(one[key]), ratio(two[key])] for key in one
    ]
    return markdown(["3x3 layer, K = 16, V = 9", "1 thread", "2 threads"], rows)


def cpu_bits(folder: Path) -> str:
    results = [r for r in read(folder, CPU)["results"] if r["threads"] == 1]
    cells: dict[str, list[str]] = {}
    for method in ("ours", "ours_product"):
        for suite in ("bits_1_1", "bits_2_2", "bits_3_3"):
            for name, us in times([r for r in results if r["suite"] == suite]).items():
                cells.setdefault(name, []).append(ratio(us["float32"] / us[method]))
    head = ["float32's time over ours", "1/1", "2/2", "3/3"]
    head += [f"product alone: {text}" for text in head[1:]]
    return markdown(head, [[name, *row] for name, row in cells.items()])


def cpu_sign_magnitude(folder: Path) -> str:
    results = read(folder, CPU)["results"]
    chosen = [r for r in results if r["suite"] == "sign_magnitude" and r["threads"] == 1]
    methods = ("ours", "int8", "float32")
    rows = [[n, *(f"{us[m] / 1000:.1f}" for m in methods)] for n, us in times(chosen).items()]
    return markdown(["milliseconds, 1 thread", "sign and magnitude", "INT8", "float32"], rows)


def cuda_speed(folder: Path) -> str:
    summary = read(folder, f"{CUDA}-layers")["summary"]
    keys = ("float32_over_ours", "tf32_over_ours", "float16_over_ours", "int8_over_ours_int8")
    head = ["", "float32", "TF32", "FP16 tensor cores", "INT8, im2col done beforehand"]
    rows = [[text, *(ratio(summary[s][k]) for k in keys)] for s, text in CUDA_LAYERS.items()]
    return markdown(head, rows)


def cuda_network(folder: Path) -> str:
    results = {r["method"]: r["median_us"] for r in read(folder, f"{CUDA}-network")["results"]}
    rows = [[text, f"{results[method] / 1000:.1f}"] for method, text in METHODS.items()]
    return markdown(["ResNet-18, 128 images of 224 pixels", "milliseconds"], rows)


def cuda_training(folder: Path) -> str:
    results = read(folder, f"{CUDA}-train")["results"]
    rows = []
    for name, us in times([r for r in results if r["suite"] == "train_step"]).items():
        over = us["ours"] / us["exact_float32"]
        rows.append([name, ratio(over), ratio(us["ours_torch"] / us["ours"])])
    return markdown(["", "ours over exact float32", "torch's operations over ours"], rows)


def scaling(folder: Path) -> str:
    measured = read(folder, f"scaling-{CPU}")["measured"]
    rows = [
        [
            str(entry["ranks"]),
            f"{entry['step_seconds']:.2f}",
            f"{entry['learning_seconds']:.0f}",
            f"{1000 * entry['all_reduce_seconds']:.1f}",
            f"{entry.get('share_alone_seconds', entry['step_seconds']):.2f}",
        ]
        for entry in measured
    ]
    head = [
        "ranks",
        "s a step",
        "s of capture and learning",
        "ms of adding up gradients",
        "s a step of its share alone",
    ]
    return markdown(head, rows)


def final(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The recipe's results by operator, a result for each seed."""
    rows = read(folder, "accuracy")["rows"]
    return {row["name"]: row["results"] for row in rows if row["group"] == "final"}


def recipe(folder: Path) -> str:
    trees = final(folder)["trees"]
    lines = {
        "exact network, fine-tuned (validation)": "exact_val",
        "all six layers replaced, before training": "swap",
        "after training": "tables_val",
        "**test split, read once**: exact, fine-tuned": "exact_test",
        "all six layers replaced": "tables_test",
    }
    rows = []
    for text, key in lines.items():
        values = [result[key] for result in trees]
        rows.append([text, *(f"{value:.2f}" for value in values), spread(values)])
    return markdown(["", *(f"seed {result['seed']}" for result in trees), "mean"], rows)


def accuracy(folder: Path) -> str:
    names = {"trees": "hash trees", "pq": "nearest prototypes (`halut=pq`)"}
    rows = []
    for name, results in final(folder).items():
        replaced = [result["tables_test"] for result in results]
        lost = [result["exact_test"] - result["tables_test"] for result in results]
        size = f"{results[0]['table_bytes']:,}"
        rows.append([names[name], spread(replaced), spread(lost), size])
    return markdown(["all six layers by", "test accuracy", "points lost", "bytes"], rows)


def headline(folder: Path) -> str:
    results, speed = final(folder), read(folder, CPU)["summary"]["resnet18"]
    trees, prototypes = results["trees"], results["pq"]
    lost = [
        spread([result["exact_test"] - result["tables_test"] for result in entry])
        for entry in (trees, prototypes)
    ]
    size = [f"{entry[0]['table_bytes']:,}" for entry in (trees, prototypes)]
    train = "`python train.py -m experiment=fashion_mnist_resnet8 seed=0,1,2`"
    accuracy = "ResNet-8 on Fashion-MNIST, all six 3x3 layers"
    times = "ResNet-18 on one image, one CPU thread"
    rows = [
        [f"{accuracy}: points lost, hash trees", lost[0], train],
        ["the same by nearest prototypes", lost[1], f"{train[:-1]} halut=pq`"],
        ["bytes of their tables, trees and prototypes", " and ".join(size), "`halut cost`"],
        [f"{times}: faster than float32", f"{ratio(speed['over_float32'])} times", "`halut bench`"],
        ["than INT8 (VNNI)", f"{ratio(speed['over_int8'])} times", "`halut bench`"],
        ["than INT8 (AMX)", f"{ratio(speed['over_int8_amx'])} times", "`halut bench`"],
    ]
    return markdown(["", "", "command"], rows).replace("|---|---:|---:|", "|---|---:|---|")


TABLES: dict[str, Callable[[Path], str]] = {
    made.__name__: made
    for made in (
        cpu_speed,
        cpu_worst,
        cpu_training,
        cpu_bits,
        cpu_sign_magnitude,
        cuda_speed,
        cuda_network,
        cuda_training,
        scaling,
        recipe,
        accuracy,
        headline,
    )
}

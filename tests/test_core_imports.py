"""The core stands without Lightning, Hydra and wandb; training alone may import them."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = ("lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb")
OUTSIDE = ("halut.training", "halut.studies", "halut.search", "halut.data", "halut.lightning")

IMPORT_ALL = f"""
import importlib, pkgutil, sys
for name in {FORBIDDEN!r}:
    sys.modules[name] = None  # importing it now raises ImportError
import halut
names = [m.name for m in pkgutil.walk_packages(halut.__path__, "halut.")
         if not m.name.startswith({OUTSIDE!r})]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

USE = """
import torch
from torch import nn
from halut.replace import swap
from halut.sites.calibration import capture
from halut.models.build import build_model
from halut.replace.policy import resolve, simple_rules
from halut.sites.find import find_sites

net, x = build_model("resnet8", 10, 1, width=4), torch.randn(16, 1, 8, 8)
sites, unsupported = find_sites(net, x[:1])
plan = resolve(sites, simple_rules(sites), "tree", {"K": 4}, unsupported)
rows = capture(net, [e.site for e in plan.replaced], [x])
for entry in plan.replaced:
    swap.replace_site(net, entry, rows[entry.site.name])
net(x).sum().backward()
print("trained", len(plan.replaced))
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_of_the_core_imports_and_works_without_them():
    out = python(IMPORT_ALL + USE).split()
    assert int(out[0]) > 150
    assert out[1:] == ["trained", "8"]


def test_a_plain_import_is_light():
    code = "import sys, halut.replace.swap, halut.replace.policy, halut.layers, halut.replace.ptq\n"
    heavy = (*FORBIDDEN, "timm", "torchvision", "faiss", "cupy", "torchao")
    code += f"print([name for name in {heavy!r} if name in sys.modules])"
    assert python(code).strip() == "[]"

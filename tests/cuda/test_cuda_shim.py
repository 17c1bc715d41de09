"""What the launch shim is believed for: it finds kernels that are wrong."""

import pytest
import torch

from halut.ops.cuda import cubin, launch, lookup
from tests.cuda.cuda_cases import CASES, assert_alike, expected, run
from tests.cuda.shim.runner import KernelError, Shim

BUGS = {  # source: what is there, what is put in its place, and a case that reads it
    "accumulate": [
        ("copy_wait<1>();", "copy_wait<2>();", "accumulate-(400, 1, 12, 16, 130)-torch.int8"),
        (
            "    __syncthreads();\n    const u8* slice",
            "    const u8* slice",
            "accumulate-(130, 2, 5, 16, 7)-torch.float32",
        ),
        ("i % 4 < 2 ?", "i % 4 < 3 ?", "accumulate-(300, 1, 3, 8, 40)-torch.int8"),
    ],
    "tree_encode": [
        (
            "  if (!BY_ROW) return;\n  __syncthreads();\n",
            "  if (!BY_ROW) return;\n",
            "tree_encode-16-torch.float32-True",
        ),
    ],
    "scatter_add": [
        (
            "    __syncthreads();\n    for (int c = warp",
            "    for (int c = warp",
            "scatter_add-splits",
        ),
    ],
    "tree_gradient": [
        ("bit < level", "bit + 1 < level", "tree_gradient-64"),
        (
            "    __syncthreads();  // and the last gradients have left the tile\n",
            "",
            "tree_gradient-16",
        ),
    ],
}
SEEDED = [(source, *bug) for source, bugs in BUGS.items() for bug in bugs]


@pytest.mark.parametrize(("source", "right", "wrong", "label"), SEEDED)
def test_seeded_bugs_are_caught(built, tmp_path, monkeypatch, source, right, wrong, label):
    def changed(text: str) -> str:
        assert right in text, "the seeded bug is no longer in the source"
        return text.replace(right, wrong)

    (each,) = (each for each in CASES if str(each) == label)
    reference = expected(each)
    results = []
    for schedule in ("forward", "reverse", "shuffled"):
        shim = Shim(tmp_path, schedule, changed)
        for path in built.glob("*.so"):
            if path.stem != source and not (tmp_path / path.name).exists():
                (tmp_path / path.name).symlink_to(path)
        monkeypatch.setattr(launch, "launch", shim.launch)
        monkeypatch.setattr(launch, "bind", shim.bind)
        try:
            assert_alike(each, run(each, "cuda", each.make()), reference)
        except (AssertionError, KernelError):
            results.append(schedule)
    assert results


KERNEL = """
typedef unsigned int u32;
namespace {{}}
extern "C" __global__ void probe(float* out) {{
  SHARED(float, held, 64);
  const int t = threadIdx.x;
  {body}
}}
"""


def probe(tmp_path, monkeypatch, body: str) -> torch.Tensor:
    monkeypatch.setattr(cubin, "source", lambda name: KERNEL.format(body=body))
    out = torch.zeros(64)
    Shim(tmp_path, "shuffled").launch("probe", "probe", out.device, (1, 64), out)
    return out


def test_threads_meet_at_barriers(tmp_path, monkeypatch):
    out = probe(
        tmp_path,
        monkeypatch,
        "held[t] = t; __syncthreads(); out[t] = held[63 - t];",
    )
    assert out.tolist() == list(range(63, -1, -1))


def test_warps_exchange_values(tmp_path, monkeypatch):
    body = "float v = t; for (int b = 1; b < 32; b *= 2) v += __shfl_xor_sync(~0u, v, b); out[t]=v;"
    assert probe(tmp_path, monkeypatch, body).tolist() == [496.0] * 32 + [1520.0] * 32


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (t < 9) __syncthreads();", "never come"),
        ("if (t < 9) {\n__syncthreads();\n} else {\n__syncthreads(); }", "in lines"),
        ("if (t == 3) __shfl_sync(~0u, 1.f, 0);", "never come"),
        ("copy_async<16>(held + 1, out, 16);", "not aligned"),
        ("if (t == 5) __trap();", "trapped"),
    ],
)
def test_threads_that_do_not_meet_are_an_error(tmp_path, monkeypatch, body, message):
    with pytest.raises(KernelError, match=message):
        probe(tmp_path, monkeypatch, body)


def test_halves_round_as_torch_does(shim):
    shim()
    torch.manual_seed(0)
    table = torch.cat([torch.randn(1, 1, 2, 100) * 10.0**e for e in range(-9, 7)], -1)
    table[..., :4] = torch.tensor([65504.0, 65520.0, 2.0**-25, float("nan")])
    codes = torch.randint(0, 2, (4, 1), dtype=torch.uint8)
    one, zero = torch.ones(table.shape[-1]), torch.zeros(table.shape[-1])
    for dtype in (torch.float16, torch.bfloat16):
        out = torch.empty(4, table.shape[-1], dtype=dtype)
        lookup.add_rows(codes, table, out, one, zero, -1e30)
        expected = table[0, 0][codes.view(-1).long()].to(dtype)
        known = ~expected.isnan()
        assert torch.equal(out[known], expected[known])

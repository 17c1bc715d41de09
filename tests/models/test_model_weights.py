"""Weights files: bit-equal round trips, and refusals that leave the network as it was."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from halut.errors import HalutError
from halut.models.build import build_model
from halut.models.weights import load_weights, save_weights


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model("resnet8", 10, 1, width=4)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    return model


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def refuse(path: Path, message: str, model: nn.Module | None = None) -> str:
    """The message of a refusal that changed nothing."""
    model = network() if model is None else model
    before = snapshot(model)
    with pytest.raises(HalutError, match=message) as error:
        load_weights(model, path)
    assert same(before, snapshot(model))
    assert str(path) in str(error.value)
    return str(error.value)


def test_round_trip_with_metadata(tmp_path: Path) -> None:
    saved, loaded = network(1), network(2)
    path = tmp_path / "new" / "model.safetensors"
    save_weights(path, saved.state_dict(), {"dataset": "digits"})
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]
    assert not same(snapshot(saved), snapshot(loaded))
    load_weights(loaded, path)
    assert same(snapshot(saved), snapshot(loaded))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"dataset": "digits"}


def test_views_and_shared_tensors_are_written(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    save_weights(tmp_path / "w.safetensors", {"a": whole.T, "b": whole[1], "c": whole})
    from safetensors.torch import load_file

    read = load_file(tmp_path / "w.safetensors")
    assert torch.equal(read["a"], whole.T)
    assert torch.equal(read["b"], whole[1])


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(2)})
    before = path.read_bytes()
    with pytest.raises((TypeError, AttributeError)):
        save_weights(path, {"a": "no tensor"})  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model._orig_mod."])
def test_torch_files_are_unwrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    saved, loaded = network(1), network(2)
    state = {prefix + key: value for key, value in saved.state_dict().items()}
    path = tmp_path / "w.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    load_weights(loaded, path)
    assert same(snapshot(saved), snapshot(loaded))


def test_a_networks_own_prefix_is_kept(tmp_path: Path) -> None:
    inner = nn.Sequential()
    inner.add_module("model", nn.Linear(2, 3))
    other = nn.Sequential()
    other.add_module("model", nn.Linear(2, 3))
    save_weights(tmp_path / "w.safetensors", inner.state_dict())
    load_weights(other, tmp_path / "w.safetensors")
    assert same(snapshot(inner), snapshot(other))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "none.pth", "does not exist")
    refuse(tmp_path, "is no file")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("part", [0, 5, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, suffix: str, part: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(network(1).state_dict(), whole)
    else:
        save_weights(whole, network(1).state_dict())
    content = whole.read_bytes()
    cut = content[: part if isinstance(part, int) else int(part * len(content))]
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(cut)
    error = refuse(path, "corrupt")
    assert f"{len(cut):,} bytes" in error


def test_pickled_objects_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": network(1).state_dict(), "policy": Path("x").__class__}, path)
    refuse(path, "need unpickling are refused")
    torch.save({"model": network(1)}, path)
    refuse(path, "need unpickling are refused")


def test_another_networks_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, build_model("resnet20", 10, 1, width=4).state_dict())
    error = refuse(path, "is of another network")
    mine = set(network().state_dict())
    theirs = set(build_model("resnet20", 10, 1, width=4).state_dict())
    assert f"{len(mine - theirs)} missing: " in error
    assert f"{len(theirs - mine)} unexpected: " in error
    assert len(error) < 600


def test_other_shapes_and_kinds(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = network(1).state_dict()
    save_weights(path, {**state, "fc.weight": torch.zeros(1000, 16)})
    error = refuse(path, "1 of another shape")
    assert "fc.weight float[1000, 16] instead of float[10, 16]" in error
    assert "missing" not in error
    save_weights(path, {**state, "fc.weight": state["fc.weight"].to(torch.int8)})
    refuse(path, r"fc.weight int8\[10, 16\] instead of float")
    save_weights(path, {key: value for key, value in state.items() if key != "fc.bias"})
    refuse(path, "1 missing: fc.bias$")


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = {
        k: v.half() if v.is_floating_point() else v for k, v in network(1).state_dict().items()
    }
    save_weights(tmp_path / "w.safetensors", state)
    model = network(2)
    load_weights(model, tmp_path / "w.safetensors")
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, state["fc.weight"].float())


def test_what_is_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(torch.zeros(3), path)
    refuse(path, "holds no state dict but Tensor")
    torch.save({"epoch": 3, "lr": 0.1}, path)
    refuse(path, "no tensors")
    torch.save({}, path)
    refuse(path, "holds no state dict")

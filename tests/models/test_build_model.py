"""Networks by name from three sources, and what is said when that is impossible."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from halut.errors import HalutError
from halut.models.build import build_from, build_model, find_source, pretrained_info
from halut.models.config import ModelConfig
from halut.models.weights import save_weights


def test_local_wins_then_timm_then_torchvision() -> None:
    assert find_source("resnet20") == "local"
    assert find_source("resnet18") == "timm"
    assert find_source("resnet18", "torchvision") == "torchvision"
    assert find_source("resnet50.a1_in1k") == "timm"
    assert find_source("shufflenet_v2_x1_0") == "torchvision"


def test_unknown_names_get_close_ones_of_all_lists() -> None:
    with pytest.raises(HalutError, match="resnet8 ") as error:
        build_model("resnet_8", 10)
    assert "(local)" in str(error.value)
    with pytest.raises(HalutError, match=r"resnet50 \(timm\).*resnet50 \(torchvision\)"):
        build_model("reznet50", 10)
    with pytest.raises(HalutError, match=r"local models: .*resnet8"):
        build_model("qqqqqqqqqq", 10)
    with pytest.raises(HalutError, match=r"in timm; did you mean: .*resnet8"):
        build_model("resnet8", 10, source="timm")
    with pytest.raises(HalutError, match="choose one of: auto, local, timm, torchvision"):
        build_model("resnet8", 10, source="keras")


def test_timm_channels_classes_and_options() -> None:
    model = build_model("resnet18", 7, 1, drop_rate=0.25)
    assert model.conv1.in_channels == 1
    assert model.fc.out_features == 7
    assert model.drop_rate == 0.25


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_torchvision_has_no_auxiliary_outputs(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, 5, source="torchvision", init_weights=False)
        logits = model.train()(torch.zeros(2, 3, 299, 299))
    assert logits.shape == (2, 5)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet8", {"wide": 3}, "local model 'resnet8' .*wide=3.*'wide'"),
        ("resnet8", {"width": 0}, "width=0: .* no elements"),
        ("tiny_vit", {"heads": 0}, "heads=0: .*zero"),
        ("resnet18", {"nonsense": 1}, "timm model 'resnet18' .*nonsense"),
        ("shufflenet_v2_x1_0", {"nonsense": 1}, "torchvision model .*nonsense"),
    ],
)
def test_wrong_options(name: str, options: dict[str, int], says: str | None) -> None:
    with pytest.raises(HalutError, match=says):
        build_model(name, 10, **options)


def test_wrong_counts() -> None:
    with pytest.raises(HalutError, match="takes 3 input channels, got 1"):
        build_model("resnet18", 10, 1, source="torchvision")
    with pytest.raises(HalutError, match="at least 1, got 0 and 3"):
        build_model("resnet8", 0)


def test_pretrained_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HalutError, match=r"'resnet18' could not .*model\.weights=PATH"):
        build_model("resnet18", 10, pretrained=True)
    with pytest.raises(HalutError, match=r"Invalid pretrained tag.*model\.weights=PATH"):
        build_model("resnet18.nobody", 10, pretrained=True)
    with pytest.raises(HalutError, match=r"local model 'resnet8' has no published weights"):
        build_model("resnet8", 10, pretrained=True)


def test_torchvision_pretrained_that_cannot_be_had(monkeypatch, tmp_path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(HalutError, match=r"no route to host.*model\.weights=PATH"):
        build_model("resnet18", 10, source="torchvision", pretrained=True)


def test_torchvision_pretrained_gets_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    published = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: published)
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published
    )
    model = build_model("resnet18", 10, source="torchvision", pretrained=True)
    state = model.state_dict()
    assert state["fc.weight"].shape == (10, 512)
    assert all(torch.equal(state[k], v) for k, v in published.items() if "fc." not in k)
    full = build_model("resnet18", 1000, source="torchvision", pretrained=True).state_dict()
    assert all(torch.equal(full[k], v) for k, v in published.items())


def test_pretrained_info() -> None:
    info = pretrained_info(build_model("resnet50.a1_in1k", 10))
    assert info["tag"] == "a1_in1k"
    assert info["input_size"] == [3, 224, 224]
    assert info["mean"] == [0.485, 0.456, 0.406]
    assert {"interpolation", "crop_pct", "std", "hf_hub_id", "architecture"} <= info.keys()
    info = pretrained_info(build_model("resnet18", 10, source="torchvision"))
    assert info["tag"] == "torchvision.ResNet18_Weights.IMAGENET1K_V1"
    assert (info["input_size"], info["crop_pct"]) == ([3, 224, 224], 0.875)
    assert info["interpolation"] == "bilinear"
    assert pretrained_info(build_model("resnet8", 10)) == {}


def test_build_from_takes_the_data_sets_counts_and_local_weights(tmp_path) -> None:
    trained = build_model("resnet8", 10, 1)
    save_weights(tmp_path / "w.safetensors", trained.state_dict())
    assert isinstance(load_file(tmp_path / "w.safetensors"), dict | OrderedDict)
    config = ModelConfig("resnet8", pretrained=True, weights=str(tmp_path / "w.safetensors"))
    model = build_from(config, num_classes=10, in_channels=1)
    for key, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    model = build_from(ModelConfig("resnet8", num_classes=4, in_channels=2), 10, 1)
    assert model(torch.zeros(2, 2, 8, 8)).shape == (2, 4)
    assert isinstance(model.fc, nn.Linear)


def test_build_from_refuses_options_with_a_key_of_their_own() -> None:
    with pytest.raises(HalutError, match=r"give it as model\.in_channels"):
        build_from(ModelConfig("resnet8", options={"in_channels": 1}), 10, 3)

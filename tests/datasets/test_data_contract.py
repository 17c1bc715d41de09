"""What holds for every registered data set."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from halut import data
from halut.data.loader import BatchLoader, TrainLoader
from halut.data.sampler import OrderedBatches, TrainBatches
from halut.errors import HalutError
from tests.datasets.conftest import WRITERS

pytestmark = pytest.mark.parametrize("name", sorted(data.datasets))


def first(loader):
    return next(iter(loader))


def epoch(module, number, stream=0):
    module.stream = stream
    loader = module.train_dataloader()
    loader.batches.set_epoch(number)
    return list(loader)


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y)
        for one, two in zip(a, b, strict=True)
        for x, y in zip(one, two, strict=True)
    )


def shards(indices, batch_size, world):
    return [TrainBatches(indices, batch_size, 0, shard=(rank, world)) for rank in range(world)]


def test_shapes_and_names(build, name):
    module = build(name)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        images, labels = first(loader)
        assert tuple(images.shape[1:]) == module.input_shape
        assert images.dtype == torch.float32
        assert torch.isfinite(images).all()
        assert labels.dtype == torch.int64
        assert labels.shape == images.shape[:1]
        assert 0 <= int(labels.min()) <= int(labels.max()) < module.num_classes
    assert len(set(module.class_names)) == module.num_classes
    assert len(module.mean) == len(module.std)


def test_no_sample_is_in_two_splits(build, name):
    module = build(name)
    identities = [i for split in module.splits.values() for i in split.identities()]
    assert len(identities) == len(set(identities))


def test_split_depends_on_split_seed_alone(build, name):
    one, two, other = (
        build(name, **seeds).splits["train"].identities()
        for seeds in ({"seed": 0}, {"seed": 1}, {"split_seed": 1})
    )
    assert one == two
    if name != "speech_commands":  # its lists decide, but for the choice of unknown words
        assert one != other


def test_training_batches_are_a_function_of_seed_stream_and_epoch(build, name):
    module = build(name)
    reference = epoch(module, 2, stream=1)
    torch.rand(5)
    assert same(reference, epoch(build(name), 2, stream=1))
    for changed in (epoch(module, 1, stream=1), epoch(module, 2), epoch(build(name, seed=1), 2, 1)):
        assert not same(reference, changed)


def test_workers_change_nothing(build, name):
    assert same(epoch(build(name), 0), epoch(build(name, workers=2), 0))


def test_loading_leaves_the_global_generators_alone(build, name):
    module = build(name)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    epoch(module, 0)
    list(module.calibration_batches(8, seed=0))
    assert torch.equal(torch.rand(3), expected)


def test_only_training_is_augmented(build, name):
    module = build(name)
    train = module.splits["train"]
    [request] = [next(iter(module.train_dataloader().batches))]
    augmented, _ = train.__getitems__(request)
    plain = torch.stack([train.source.fetch(type(request)(i[None]))[0] for i in request.indices])
    assert not torch.equal(augmented, plain) or not augments(module)
    for split in ("val", "test"):
        loader = module._eval_loader(split)
        assert same(list(loader), list(loader))
        image, label = module.splits[split][0]
        torch.testing.assert_close(first(loader)[0][0], image)
        assert first(loader)[1][0] == label


def augments(module):
    config = module.config
    return getattr(config, "crop_padding", 1) > 0


def test_calibration_is_balanced_shuffled_and_repeatable(build, name):
    module = build(name)
    samples = 2 * module.num_classes
    batches = list(module.calibration_batches(samples, seed=5))
    labels = torch.cat([labels for _, labels in batches])
    counts = torch.bincount(labels, minlength=module.num_classes)
    assert len(labels) == samples
    assert int(counts.max()) - int(counts.min()) <= 1
    assert not torch.equal(labels, labels.sort().values)
    assert same(batches, list(module.calibration_batches(samples, seed=5)))
    assert not same(batches, list(module.calibration_batches(samples, seed=6)))
    whole = list(module.calibration_batches(10**9, seed=0))
    assert sum(len(labels) for _, labels in whole) == len(module.splits["train"])


def test_train_subset_is_balanced_and_counted(build, name):
    module = build(name)
    samples = 2 * module.num_classes
    small = build(name, train_samples=samples)
    labels = small.splits["train"].labels
    assert torch.bincount(labels).tolist() == [2] * module.num_classes
    assert set(small.splits["train"].identities()) < set(module.splits["train"].identities())
    with pytest.raises(HalutError, match=r"data\.train_samples must be in 1\.\."):
        build(name, train_samples=10**9)


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 1, "cutmix": 1}])
def test_mixing_changes_training_batches_only(build, name, options):
    module = build(name, **options)
    loader = module.train_dataloader()
    images, labels = first(loader)
    module.trainer = SimpleNamespace(training=False)
    assert module.on_after_batch_transfer([images, labels], 0)[0] is images
    module.trainer = SimpleNamespace(training=True)
    mixed, targets = module.on_after_batch_transfer([images, labels], 0)
    again, _ = module.on_after_batch_transfer([images, labels], 0)
    assert not torch.equal(mixed, images)
    assert torch.equal(mixed, again)
    assert targets.shape == (8, module.num_classes)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    own = targets[torch.arange(8), labels]
    other = targets[torch.arange(8), labels.flip(0)]
    torch.testing.assert_close(
        torch.where(labels == labels.flip(0), own, own + other), torch.ones(8)
    )
    others = []
    for batch in range(2, 7):
        loader.handed_out = (0, batch)
        others.append(module.on_after_batch_transfer([images, labels], 0)[0])
    assert any(not torch.equal(other, mixed) for other in others)


def test_resumes_in_the_middle_of_an_epoch(build, name):
    module = build(name, batch_size=4)
    whole = epoch(module, 3)
    loader = module.train_dataloader()
    loader.batches.set_epoch(3)
    iterator = iter(loader)
    seen = [next(iterator) for _ in range(2)]
    state = loader.state_dict()
    resumed = build(name, batch_size=4).train_dataloader()
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole)
    assert same(seen + list(resumed), whole)


def test_training_shards_do_not_overlap_and_equal_one_process(build, name):
    indices = build(name).splits["train"].indices
    [alone] = shards(indices, 8, 1)
    pair = shards(indices, 8, 2)
    assert len(pair[0]) == len(pair[1]) == len(alone)
    for whole, one, two in zip(alone, *pair, strict=True):
        assert len(one.indices) == len(two.indices)
        assert sorted([*one.indices.tolist(), *two.indices.tolist()]) == sorted(
            whole.indices.tolist()
        )


def test_training_shards_draw_the_augmentation_of_one_process(build, name):
    module = build(name)
    train = module.splits["train"]
    batches = [first(TrainLoader(train, shard)) for shard in shards(train.indices, 4, 2)]
    whole, labels = first(TrainLoader(train, shards(train.indices, 4, 1)[0]))
    torch.testing.assert_close(whole[0::2], batches[0][0])
    torch.testing.assert_close(whole[1::2], batches[1][0])
    assert torch.equal(labels[1::2], batches[1][1])


@pytest.mark.parametrize("world", [2, 3])
def test_evaluation_shards_see_every_sample_once(build, name, world):
    test = build(name).splits["test"]
    parts = [OrderedBatches(test.indices, 3, (rank, world)) for rank in range(world)]
    seen = [i for part in parts for request in part for i in request.indices.tolist()]
    assert sorted(seen) == sorted(test.indices.tolist())
    assert sum(len(labels) for _, labels in BatchLoader(test, parts[0])) == len(parts[0].indices)
    assert all(len(list(part)) == len(part) for part in parts)


def test_a_missing_root_names_the_searched_paths(name, tmp_path, monkeypatch):
    if name not in WRITERS:
        pytest.skip("reads no files")
    monkeypatch.setenv("HALUT_DATA", str(tmp_path / "by_environment"))
    monkeypatch.setattr("halut.data.fashion_mnist.DEBIAN", str(tmp_path / "package"))
    with pytest.raises(HalutError) as caught:
        data.build(name, root=str(tmp_path / "by_root")).setup()
    message = str(caught.value)
    assert message.startswith(f"data.{name}: ")
    for part in ("by_root", "by_environment", "data.root=PATH", "HALUT_DATA"):
        assert part in message


def test_root_without_permission(name, folders, monkeypatch):
    if name not in WRITERS:
        pytest.skip("reads no files")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(HalutError, match=f"data.{name}: no permission to read {folders(name)}"):
        data.build(name, root=str(folders(name))).setup()

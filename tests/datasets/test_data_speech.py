"""Speech Commands: features against librosa, the two tasks, augmentation, bad files."""

from __future__ import annotations

import os
import shutil

import librosa
import numpy as np
import pytest
import soundfile
import torch

from halut import data
from halut.data.audio import Features, Frontend
from halut.data.samples import Request
from halut.errors import HalutError
from tests.datasets.generate import OTHER_WORDS, RATE, WORDS, write_speech_commands


def module_of(root, **options):
    module = data.build("speech_commands", root=str(root), **options)
    module.setup()
    return module


@pytest.mark.parametrize("coefficients", [0, 10, 40])
@pytest.mark.parametrize(("window", "stride", "mels"), [(40, 20, 40), (25, 10, 64), (64, 32, 80)])
def test_features_equal_librosa(coefficients, window, stride, mels):
    features = Features(RATE, window, stride, mels, 20.0, 7600.0, coefficients)
    waves = np.random.default_rng(0).uniform(-1, 1, (2, RATE)).astype(np.float32)
    waves[1, 5000:] = 0
    ours = Frontend(features)(torch.from_numpy(waves)).numpy()
    left = (features.n_fft - features.window) // 2
    for wave, answer in zip(waves, ours, strict=True):
        mel = librosa.feature.melspectrogram(
            y=np.pad(wave, (left, features.n_fft - features.window - left)),
            sr=RATE,
            n_fft=features.n_fft,
            hop_length=features.hop,
            win_length=features.window,
            center=False,
            power=1.0,
            n_mels=mels,
            fmin=20.0,
            fmax=7600.0,
            htk=True,
            norm=None,
        )
        expected = np.log(mel + 1e-6)
        if coefficients:
            expected = librosa.feature.mfcc(S=expected, n_mfcc=coefficients)
        np.testing.assert_allclose(answer[0], expected.T, atol=1e-3)


def test_a_second_gives_49_frames_of_10_coefficients(folders):
    module = module_of(folders("speech_commands"))
    assert module.input_shape == (1, 49, 10)
    assert len(module.mean) == 10
    assert module_of(folders("speech_commands"), coefficients=0).input_shape == (1, 49, 40)
    train = torch.cat([x for x, _ in module.calibration_batches(10**6, seed=0)])
    torch.testing.assert_close(train.mean((0, 1, 2)), torch.zeros(10), atol=1e-3, rtol=0)
    torch.testing.assert_close(train.std((0, 1, 2)), torch.ones(10), atol=1e-2, rtol=0)


def test_twelve_classes_are_balanced(folders):
    module = module_of(folders("speech_commands"))
    assert module.class_names == [*WORDS, "silence", "unknown"]
    for split, each in (("train", 4), ("val", 1), ("test", 1)):
        assert torch.bincount(module.splits[split].labels).tolist() == [each] * 12
    names = module.splits["train"].identities()
    assert sum(name.split("/")[0] in OTHER_WORDS for name in names) == 4


def test_thirty_five_classes_follow_the_lists(folders):
    root = folders("speech_commands")
    module = module_of(root, classes=35)
    assert module.class_names == sorted([*WORDS, *OTHER_WORDS])
    for split, listing in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
        files = (root / listing).read_text().split()
        assert sorted(module.splits[split].identities()) == sorted(files)
    label = module.splits["test"].labels[0]
    assert module.splits["test"].identities()[0].startswith(module.class_names[label] + "/")


def test_shift_without_noise_moves_the_clip(folders):
    module = module_of(folders("speech_commands"), classes=35, noise_prob=0.0)
    source = module.splits["train"].source
    request = next(iter(module.train_dataloader().batches))
    plain, moved = source.waves(Request(request.indices)), source.waves(request)
    shifts = []
    for still, wave in zip(plain, moved, strict=True):
        actual = np.flatnonzero(
            [torch.equal(torch.roll(still, s)[1600:-1600], wave[1600:-1600]) for s in SHIFTS]
        )
        assert len(actual) == 1
        shifts.append(SHIFTS[actual[0]])
    assert min(shifts) < 0 < max(shifts)


SHIFTS = range(-1600, 1601)


def test_noise_has_the_configured_volume_and_silence_differs_in_every_epoch(folders):
    quiet, loud = (
        module_of(folders("speech_commands"), noise_prob=1.0, noise_volume=volume, shift_ms=0.0)
        for volume in (0.0, 1.0)
    )
    request = next(iter(quiet.train_dataloader().batches))
    spoken = quiet.splits["train"].source.labels[request.indices] != 10
    still = quiet.splits["train"].source.waves(Request(request.indices))
    silent_noise = quiet.splits["train"].source.waves(request)
    assert torch.equal(still[spoken], silent_noise[spoken])
    assert not torch.equal(still[~spoken], silent_noise[~spoken])
    noisy = loud.splits["train"].source.waves(request)
    assert all(not torch.equal(a, b) for a, b in zip(still[spoken], noisy[spoken], strict=True))


def test_splits_get_different_noise(folders):
    module = module_of(folders("speech_commands"))
    parts = [split.source.noise.waves[0] for split in module.splits.values()]
    assert [len(part) / RATE for part in parts] == pytest.approx([9.6, 1.2, 1.2])
    assert not torch.equal(parts[1][:RATE], parts[2][:RATE])


def test_wrong_rate_and_missing_files_are_named(tmp_path):
    root = write_speech_commands(tmp_path, per_word=3)
    file = sorted((root / "cat").iterdir())[0]
    sound, _ = soundfile.read(file)
    soundfile.write(file, sound, 8000)
    with pytest.raises(HalutError, match=f"{file} has 8000 Hz instead of 16000 Hz"):
        module_of(root)
    file.write_bytes(b"no sound")
    with pytest.raises(HalutError, match=f"cannot read {file}"):
        module_of(root)
    soundfile.write(file, sound[:8000], RATE)
    assert len(module_of(root, classes=35).splits["train"]) == 35
    (root / "wow").rename(root / "elsewhere")
    with pytest.raises(HalutError, match=r"validation_list.txt lists wow/.* which is missing"):
        module_of(root)
    (root / "elsewhere").rename(root / "wow")
    (root / "testing_list.txt").unlink()
    with pytest.raises(HalutError, match=r"testing_list.txt is missing"):
        module_of(root)


MEASURED = {"mean": [0.0] * 10, "std": [1.0] * 10}


def first_file(root, listing):
    """The file of the first line of a list."""
    return root / (root / listing).read_text().split()[0]


@pytest.fixture
def speech(folders, tmp_path):
    """A copy of the generated recordings, to be damaged."""
    return shutil.copytree(folders("speech_commands"), tmp_path / "speech")


def test_every_header_is_looked_at_before_training(speech):
    file = first_file(speech, "testing_list.txt")
    sound, _ = soundfile.read(file)
    soundfile.write(file, sound, 44100)
    with pytest.raises(HalutError, match=f"{file} has 44100 Hz"):
        module_of(speech, classes=35)
    soundfile.write(file, sound[:0], RATE)
    with pytest.raises(HalutError, match=f"{file} holds no samples: remove it"):
        module_of(speech, classes=35)
    file.write_bytes(b"")
    with pytest.raises(HalutError, match=f"cannot read {file}: "):
        module_of(speech, classes=35)


def test_one_sample_that_is_nan_names_its_file_before_training(speech):
    file = first_file(speech, "testing_list.txt")
    sound, _ = soundfile.read(file)
    sound[777] = np.nan
    soundfile.write(file, sound, RATE, subtype="FLOAT")
    module = module_of(speech, classes=35, **MEASURED)
    with pytest.raises(HalutError, match=f"{file} holds NaN or infinity"):
        module.read_test()


def test_files_of_the_wild_change_nothing(folders, speech):
    plain = module_of(folders("speech_commands"), classes=35, **MEASURED)
    for word in ("cat", "_background_noise_"):
        (speech / word / "._a.wav").write_bytes(b"Mac OS X")
        (speech / word / "folder.wav").mkdir()
    (speech / ".git").mkdir()
    moved = first_file(speech, "validation_list.txt")
    moved.rename(moved.with_suffix(".WAV"))
    for listing in ("validation_list.txt", "testing_list.txt"):
        lines = (speech / listing).read_text().split()
        text = "\r\n".join(["", *lines, lines[0], "  ", ""])
        (speech / listing).write_bytes(text.encode("utf-16"))
    module = module_of(speech, classes=35, **MEASURED)
    for split, part in plain.splits.items():
        here = [name.replace(".WAV", ".wav") for name in module.splits[split].identities()]
        assert here == part.identities()


def test_names_that_are_no_utf_8_are_read(speech):
    file = first_file(speech, "testing_list.txt")
    name = os.fsdecode(b"\xe9t\xe9.wav")
    file.rename(file.with_name(name))
    lines = (speech / "testing_list.txt").read_text().split()
    lines[0] = f"{file.parent.name}/été.wav"
    (speech / "testing_list.txt").write_bytes("\n".join(lines).encode("latin-1"))
    module = module_of(speech, classes=35, **MEASURED)
    assert f"{file.parent.name}/{name}" in module.splits["test"].identities()
    module.read_test()
    module.digests()


@pytest.mark.parametrize("listing", ["validation_list.txt", "testing_list.txt"])
def test_an_empty_list_is_refused(speech, listing):
    (speech / listing).write_text("\n \n")
    with pytest.raises(HalutError, match=f"{listing} lists no files"):
        module_of(speech)


def test_empty_word_folder_is_named(tmp_path):
    root = write_speech_commands(tmp_path, per_word=3)
    (root / "extra").mkdir()
    with pytest.raises(HalutError, match=f"{root / 'extra'} holds no WAV files"):
        module_of(root)

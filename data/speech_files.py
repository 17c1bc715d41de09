"""Files of Google Speech Commands: the split and class of each recording."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halut.data import roots
from halut.data.files import files as files_in
from halut.data.files import finder, folders, printable, read_lines
from halut.data.randomness import Keys, integers
from halut.errors import HalutError

GROUP = "data.speech_commands"
RATE = 16000
CLIP = RATE  # samples of one second
SPLITS = ("train", "val", "test")
FOLDERS = ("speech_commands", "speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02")
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE = "_background_noise_"
SUFFIXES = (".wav",)
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_PARTS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


@dataclass(frozen=True)
class Recording:
    """One sample: a file, or (path None) a stretch of background noise labeled as silence."""

    identity: str
    label: int
    path: Path | None


class Noise:
    """Background noise of one split: waveforms [samples], each a second long or more."""

    def __init__(self, waves: list[Tensor]) -> None:
        self.waves = waves

    def stretch(self, keys: Keys) -> Tensor:
        """One second for every key, [B, 16000]: draw 2 is the file, draw 3 the place."""
        clips = []
        for key, which in zip(keys, integers(keys, 2, len(self.waves)), strict=True):
            wave = self.waves[which]
            start = int(integers(key.reshape(1), 3, len(wave) - CLIP + 1)[0])
            clips.append(wave[start : start + CLIP])
        return torch.stack(clips)


def find(root: str | None) -> Path:
    """The folder with the word folders and both lists; HalutError naming what is missing."""
    places = roots.candidates(root, FOLDERS)
    for place in places:
        roots.check_readable(GROUP, place)
        present = [name for name in (*LISTS.values(), NOISE) if (place / name).exists()]
        if len(present) == 3:
            return place
        if present:
            missing = next(n for n in (*LISTS.values(), NOISE) if n not in present)
            raise HalutError(f"{GROUP}: {printable(place / missing)} is missing")
    raise HalutError(
        f"{GROUP}: {LISTS['val']} not found; looked in {roots.list_paths(places)}. Unpack "
        "speech_commands_v0.02.tar.gz (word folders with WAV files, validation_list.txt, "
        f"testing_list.txt, {NOISE}/) there, or {roots.ROOT_HINT}"
    )


def recordings(
    folder: Path, classes: int, seed: int
) -> tuple[list[str], dict[str, list[Recording]]]:
    """Class names, and the recordings of every split.

    12 classes: "unknown" is as many recordings of other words, and "silence" as many stretches of
    noise, as a wanted word has on average; the same for every `seed`.
    """
    files = _files_by_split(folder)
    spoken = _words(folder)
    if classes == 35:
        if len(spoken) != 35:
            raise HalutError(
                f"{GROUP}: {printable(folder)} has {len(spoken)} word folders instead of 35"
            )
        return spoken, {name: _labeled(folder, files[name], spoken) for name in SPLITS}
    if absent := [word for word in WORDS if word not in spoken]:
        raise HalutError(f"{GROUP}: {printable(folder / absent[0])} is missing")
    names = [*WORDS, "silence", "unknown"]
    recordings_of = {}
    for split, files_of_split in files.items():
        keywords = [file for file in files_of_split if file.split("/")[0] in WORDS]
        others = [file for file in files_of_split if file.split("/")[0] not in WORDS]
        count = max(1, round(len(keywords) / len(WORDS)))
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        unknown = sorted(others[i] for i in rng.permutation(len(others))[:count])
        if not keywords:
            raise HalutError(
                f"{GROUP}: {printable(folder)} has no {split} recordings of {', '.join(WORDS)}"
            )
        recordings_of[split] = [
            *_labeled(folder, keywords, names),
            *(Recording(f"silence/{split}/{i}", 10, None) for i in range(count)),
            *(Recording(file, 11, folder / file) for file in unknown),
        ]
    return names, recordings_of


def noises(folder: Path) -> dict[str, Noise]:
    """The background noise of every split: its own part of every file, so that none is shared."""
    paths = [folder / NOISE / name for name in files_in(GROUP, folder / NOISE, SUFFIXES)]
    if not paths:
        raise HalutError(f"{GROUP}: {printable(folder / NOISE)} holds no WAV files")
    parts: dict[str, list[Tensor]] = {split: [] for split in SPLITS}
    for path in paths:
        wave = _decode(path)
        for split, (low, high) in _PARTS.items():
            part = wave[int(low * len(wave)) : int(high * len(wave))]
            if len(part) < CLIP:
                raise HalutError(
                    f"{GROUP}: {printable(path)} lasts {len(wave) / RATE:.1f} s; its tenth must "
                    "last 1 s"
                )
            parts[split].append(part)
    return {split: Noise(waves) for split, waves in parts.items()}


def read(path: Path) -> Tensor:
    """One second of a recording, [16000] in -1..1; a shorter one is filled up with zeros."""
    wave = _decode(path)[:CLIP]
    return torch.nn.functional.pad(wave, (0, CLIP - len(wave)))


def _decode(path: Path) -> Tensor:
    soundfile = _soundfile()
    try:
        # Bytes: soundfile cannot encode names that are no UTF-8.
        wave, rate = soundfile.read(os.fsencode(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from error
    _check(path, rate, len(wave))
    if not np.isfinite(wave).all():
        raise HalutError(f"{GROUP}: {printable(path)} holds NaN or infinity")
    return torch.from_numpy(wave.mean(1) if wave.shape[1] > 1 else wave[:, 0])


def _files_by_split(folder: Path) -> dict[str, list[str]]:
    """WAV files as WORD/NAME.wav, sorted; what is in neither list is for training."""
    every = []
    for word in _words(folder):
        roots.check_readable(GROUP, folder / word)
        names = files_in(GROUP, folder / word, SUFFIXES)
        if not names:
            raise HalutError(f"{GROUP}: {printable(folder / word)} holds no WAV files")
        for name in names:
            _check_header(folder / word / name)
        every += [f"{word}/{name}" for name in names]
    find = finder(every)
    by_split: dict[str, list[str]] = {}
    for split, name in LISTS.items():
        lines = read_lines(GROUP, folder / name)
        by_line = {line: find(line) for line in lines}
        if absent := [line for line, file in by_line.items() if file is None]:
            raise HalutError(
                f"{GROUP}: {printable(folder / name)} lists {printable(absent[0])}, which is "
                "missing"
            )
        if not lines:
            raise HalutError(f"{GROUP}: {printable(folder / name)} lists no files")
        by_split[split] = sorted({file for file in by_line.values() if file is not None})
    if both := set(by_split["val"]) & set(by_split["test"]):
        raise HalutError(f"{GROUP}: {printable(min(both))} is in both lists of {printable(folder)}")
    evaluation = {*by_split["val"], *by_split["test"]}
    return {"train": [file for file in every if file not in evaluation], **by_split}


def _words(folder: Path) -> list[str]:
    return [name for name in folders(folder) if name != NOISE]


def _check_header(path: Path) -> None:
    """A cheap look at a file, before training starts."""
    soundfile = _soundfile()
    try:
        info = soundfile.info(os.fsencode(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from error
    _check(path, info.samplerate, info.frames)


def _check(path: Path, rate: int, samples: int) -> None:
    if rate != RATE:
        raise HalutError(f"{GROUP}: {printable(path)} has {rate} Hz instead of {RATE} Hz")
    if samples == 0:
        raise HalutError(f"{GROUP}: {printable(path)} holds no samples: remove it")


def _unreadable(path: Path, error: Exception) -> HalutError:
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
    return HalutError(f"{GROUP}: cannot read {printable(path)}: {reason}")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise HalutError(f"{GROUP} needs soundfile: pip install 'halut[speech]'") from error
    return soundfile


def _labeled(folder: Path, files: list[str], names: list[str]) -> list[Recording]:
    return [Recording(file, names.index(file.split("/")[0]), folder / file) for file in files]

"""Google Speech Commands v2 (Warden, 2018): one-second words, 16 kHz; 12 or 35 classes.

Fetching is left to the user: unpack speech_commands_v0.02.tar.gz (download.tensorflow.org/data/)
into the root, so that the word folders lie beside validation_list.txt and testing_list.txt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from halut.data import roots, speech_files
from halut.data.audio import Features, Frontend
from halut.data.base import DataModule, Pools, datasets
from halut.data.config import DataConfig
from halut.data.files import printable
from halut.data.randomness import Keys, fold, integers, uniforms
from halut.data.samples import Request, Samples, Split
from halut.data.speech_files import CLIP, GROUP, RATE, SPLITS, Noise, Recording
from halut.data.splits import balanced_subset
from halut.errors import HalutError
from halut.option import every, option, where, while_training

_STATISTICS = 512  # clips that mean and std are measured on


@dataclass
class SpeechCommandsConfig(DataConfig):
    """Google Speech Commands v2.

    mean and std have one value per coefficient (or mel); null: measured on training clips.
    """

    name: str = option("speech_commands", "the data set")
    classes: int = option(12, "12 (ten words, silence, unknown) or 35 (every word)")
    shift_ms: float = option(
        100.0, "training clips are shifted by up to so many ms", needs=while_training
    )
    noise_prob: float = option(
        0.8, "share of training clips that noise is added to", needs=while_training
    )
    noise_volume: float = option(
        0.1,
        "the noise's volume is uniform up to this",
        needs=every(
            while_training,
            where(lambda own: own.noise_prob > 0, "it needs data.noise_prob above 0"),
        ),
    )
    window_ms: float = option(40.0, "ms of a window")
    stride_ms: float = option(20.0, "ms between windows")
    mels: int = option(40, "mel bands")
    low: float = option(20.0, "lowest frequency in Hz")
    high: float = option(4000.0, "highest frequency in Hz")
    coefficients: int = option(10, "coefficients of the MFCC; 0: log-mel features")

    def check(self) -> None:
        super().check()
        if self.classes not in (12, 35):
            raise HalutError(f"data.classes must be 12 or 35, got {self.classes}")
        for name in ("noise_prob", "noise_volume"):
            if not 0 <= getattr(self, name) <= 1:
                raise HalutError(f"data.{name} must be within 0..1, got {getattr(self, name)}")
        if not 0 <= self.shift_ms <= 1000:
            raise HalutError(f"data.shift_ms must be within 0..1000, got {self.shift_ms}")
        self.features()

    def expected_shape(self) -> tuple[tuple[int, int, int], int]:
        features = self.features()
        frames = 1 + (CLIP - features.window) // features.hop
        return (1, frames, self.coefficients or self.mels), self.classes

    def features(self) -> Features:
        """The feature extraction's part of the options."""
        return Features(
            RATE, self.window_ms, self.stride_ms, self.mels, self.low, self.high, self.coefficients
        )


class SpeechSamples(Samples):
    """Recordings of one split, and the part of the background noise that belongs to it."""

    def __init__(
        self, recordings: list[Recording], noise: Noise, config: SpeechCommandsConfig
    ) -> None:
        self.recordings, self.noise, self.config = recordings, noise, config
        self.labels = torch.tensor([r.label for r in recordings], dtype=torch.int64)
        self.frontend = Frontend(config.features())
        width = config.coefficients or config.mels
        self.mean, self.std = torch.zeros(width), torch.ones(width)

    def identity(self, index: int) -> str:
        return self.recordings[index].identity

    def fetch(self, request: Request) -> Tensor:
        return (self.features(request) - self.mean) / self.std

    def features(self, request: Request) -> Tensor:
        """Features [B, 1, frames, coefficients] before normalization."""
        return self.frontend(self.waves(request))

    def waves(self, request: Request) -> Tensor:
        """Waveforms [B, 16000], augmented where the request has keys.

        Silence without keys is one fixed stretch of noise per sample. Draws of a key: 0 noise or
        not, 1 its volume, 2 and 3 its place, 4 the shift.
        """
        own = fold(self.config.split_seed, request.indices.numpy())
        keys = own if request.keys is None else request.keys
        waves = [self._wave(int(index), keys[i]) for i, index in enumerate(request.indices)]
        batch = torch.stack(waves)
        return batch if request.keys is None else self._augmented(batch, request)

    def _wave(self, index: int, key: Keys) -> Tensor:
        recording = self.recordings[index]
        if recording.path is not None:
            return speech_files.read(recording.path)
        keys = key.reshape(1)
        return self.noise.stretch(keys)[0] * float(uniforms(keys, 1)[0])

    def _augmented(self, waves: Tensor, request: Request) -> Tensor:
        keys, config = request.keys, self.config
        assert keys is not None
        reach = round(config.shift_ms * RATE / 1000)
        shift = torch.from_numpy(integers(keys, 4, 2 * reach + 1) - reach)
        places = torch.arange(waves.shape[1]) - shift[:, None]
        inside = (places >= 0) & (places < waves.shape[1])
        shifted = waves.gather(1, places.clamp(0, waves.shape[1] - 1)) * inside
        spoken = torch.tensor([self.recordings[int(i)].path is not None for i in request.indices])
        noisy = torch.from_numpy(uniforms(keys, 0) < config.noise_prob) & spoken
        volume = torch.from_numpy(uniforms(keys, 1)).float() * config.noise_volume * noisy
        if bool((volume > 0).any()):
            shifted = shifted + self.noise.stretch(keys) * volume[:, None]
        return torch.where(spoken[:, None], shifted, waves).clamp(-1, 1)


@datasets.register("speech_commands")
class SpeechCommands(DataModule):
    """Features [1, frames, coefficients]; splits by the data set's own lists."""

    Config = SpeechCommandsConfig
    config: SpeechCommandsConfig

    def download(self) -> None:
        raise HalutError(
            f"{GROUP}: unpack speech_commands_v0.02.tar.gz by hand; set data.download=false "
            f"and {roots.ROOT_HINT}"
        )

    def load(self) -> Pools:
        config = self.config
        folder = speech_files.find(config.root)
        class_names, recordings = speech_files.recordings(folder, config.classes, config.split_seed)
        noise = speech_files.noises(folder)
        splits = {name: SpeechSamples(recordings[name], noise[name], config) for name in SPLITS}
        statistics = self._statistics(splits["train"])
        for source in splits.values():
            source.mean, source.std = statistics
        self.mean, self.std = (values.tolist() for values in statistics)
        train, val, test = (Split(splits[name]) for name in SPLITS)
        return Pools(train, test, [printable(name) for name in class_names], val)

    def _statistics(self, train: SpeechSamples) -> tuple[Tensor, Tensor]:
        """mean and std per coefficient: those given, or measured on balanced training clips."""
        config = self.config
        if (config.mean is None) != (config.std is None):
            raise HalutError("give both data.mean and data.std, or neither")
        if config.mean is not None and config.std is not None:
            width = len(train.mean)
            if (len(config.mean), len(config.std)) != (width, width):
                raise HalutError(f"data.mean and data.std must have {width} values")
            return torch.tensor(config.mean), torch.tensor(config.std)
        indices = balanced_subset(train.labels, _STATISTICS, config.split_seed).sort().values
        features = train.features(Request(indices)).flatten(0, 2).double()
        return features.mean(0).float(), features.std(0).clamp_min(1e-3).float()

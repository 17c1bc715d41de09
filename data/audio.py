"""Log-mel and MFCC features of a batch of waveforms.

spectrum[t, f] = |sum_n window[n] x[t hop + n] exp(-2 pi i f n / n_fft)|     (magnitude)
logmel[t, m]   = log(sum_f mel[m, f] spectrum[t, f] + 1e-6)
mfcc[t, k]     = sum_m dct[k, m] logmel[t, m]                                (orthonormal DCT-II)

Frames start at multiples of the hop and lie within the signal: 1 s at 16 kHz, 40 ms windows every
20 ms give 49. The defaults are those of MLPerf Tiny's keyword spotting (Banbury et al., 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from halut.errors import HalutError

FLOOR = 1e-6


@dataclass(frozen=True)
class Features:
    """Window and stride in ms, frequencies in Hz; `coefficients` 0: log-mel, else MFCC."""

    rate: int = 16000
    window_ms: float = 40.0
    stride_ms: float = 20.0
    mels: int = 40
    low: float = 20.0
    high: float = 4000.0
    coefficients: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.coefficients <= self.mels:
            raise HalutError(
                f"data.coefficients must be in 0..{self.mels} (the mels), got {self.coefficients}"
            )
        if not 0 <= self.low < self.high <= self.rate / 2:
            raise HalutError(
                f"data.low and data.high must satisfy 0 <= low < high <= {self.rate / 2:g} Hz, "
                f"got {self.low:g} and {self.high:g}"
            )
        if self.window < 2 or self.hop < 1:
            raise HalutError("data.window_ms and data.stride_ms must be positive")

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.rate * self.window_ms / 1000)

    @property
    def hop(self) -> int:
        """Samples between the starts of two windows."""
        return round(self.rate * self.stride_ms / 1000)

    @property
    def n_fft(self) -> int:
        """The next power of two."""
        return 1 << (self.window - 1).bit_length()


class Frontend:
    """Waveforms [B, samples] float32 in -1..1 -> features [B, 1, frames, mels or coefficients]."""

    def __init__(self, features: Features) -> None:
        try:
            from librosa.filters import mel
        except ImportError as error:
            raise HalutError(
                "data.speech_commands needs librosa: pip install 'halut[speech]'"
            ) from error
        self.features = features
        self.mel = torch.from_numpy(
            mel(
                sr=features.rate,
                n_fft=features.n_fft,
                n_mels=features.mels,
                fmin=features.low,
                fmax=features.high,
                htk=True,
                norm=None,
            )
        ).float()
        self.window = torch.hann_window(features.window)
        self.dct = dct_matrix(features.coefficients, features.mels)

    def __call__(self, waves: Tensor) -> Tensor:
        features = self.features
        # torch.stft centers a window in its n_fft samples; shift so that it starts at the hop.
        left = (features.n_fft - features.window) // 2
        padded = functional.pad(waves, (left, features.n_fft - features.window - left))
        spectrum = torch.stft(
            padded,
            features.n_fft,
            features.hop,
            features.window,
            self.window,
            center=False,
            return_complex=True,
        ).abs()
        logmel = torch.log(self.mel @ spectrum + FLOOR).transpose(1, 2)
        return (logmel @ self.dct.T if features.coefficients else logmel)[:, None]


def dct_matrix(coefficients: int, size: int) -> Tensor:
    """The first rows of the orthonormal DCT-II, [coefficients, size]."""
    k = torch.arange(coefficients, dtype=torch.float64)[:, None]
    m = torch.arange(size, dtype=torch.float64)[None]
    rows = torch.cos(math.pi / size * (m + 0.5) * k) * math.sqrt(2 / size)
    rows[:1] /= math.sqrt(2)
    return rows.float()

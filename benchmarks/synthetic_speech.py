"""Keyword data from a speech synthesizer, in the layout of Google Speech Commands v2.

python benchmarks/synthetic_speech.py --out FOLDER [--synthesizer espeak-ng] [--speakers 60]

A folder per word with one-second WAV files (16 kHz, 16 bits, mono), validation_list.txt and
testing_list.txt by the data set's own rule (a hash of the speaker's id: a tenth of the speakers
each, none in two splits), and _background_noise_. `data=speech_commands data.root=FOLDER` reads it.

A speaker is a setting of the synthesizer: voice, speed and pitch, no two alike. Voices repeat only
where there are more speakers than voices (espeak-ng: 8 accents x 64 variants; flite: 5). The same
options and the same version of the synthesizer write the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy.io import wavfile
from scipy.signal import resample_poly

from halut.data.speech_files import CLIP, LISTS, NOISE, RATE
from halut.data.speech_files import WORDS as KEYWORDS
from halut.errors import HalutError
from halut.io import write_folder

WORDS = (
    *KEYWORDS,
    *("backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four"),
    *("happy", "house", "learn", "marvin", "nine", "one", "seven", "sheila", "six", "three"),
    *("tree", "two", "visual", "wow", "zero"),
)
NOISES = ("white_noise", "pink_noise", "brown_noise", "mains_hum")
NOISE_SECONDS = 60
QUIET = 0.01  # share of the peak under which a recording's ends are cut off


@dataclass(frozen=True)
class Synthesizer:
    """A program that writes a word to a WAV file, and the settings it is asked for.

    arguments are formatted with a speaker's voice, speed and pitch, the file `out` and the `word`.
    """

    package: str
    voices: tuple[str, ...]
    speeds: tuple[float, ...]
    pitches: tuple[float, ...]
    arguments: tuple[str, ...]


_ACCENTS = (
    *("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd"),
    *("en-029", "en-us-nyc"),
)
# Those of espeak-ng 1.51 that sound like people: neither robots, whispers nor effects.
_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "adam"),
    *("Alex", "Alicia", "Andrea", "Andy", "anika", "Annie", "antonio", "aunty", "belinda"),
    *("benjamin", "boris", "caleb", "croak", "david", "Denis", "Diogo", "ed", "edward"),
    *("edward2", "Gene", "Gene2", "grandma", "grandpa", "gustave", "Henrique", "Hugo", "iven"),
    *("iven2", "iven3", "iven4", "Jacky", "john", "Lee", "linda", "Marco", "max", "Michael"),
    *("michel", "miguel", "Mike", "norbert", "pablo", "paul", "quincy", "rob", "robert", "steph"),
    *("steph2", "steph3", "travis"),
)
SYNTHESIZERS = {
    "espeak-ng": Synthesizer(
        package="espeak-ng",
        voices=tuple(f"{accent}+{variant}" for accent, variant in product(_ACCENTS, _VARIANTS)),
        speeds=tuple(range(110, 211, 5)),  # words a minute
        pitches=tuple(range(20, 81, 5)),  # of 0..99
        arguments=("-v", "{voice}", "-s", "{speed}", "-p", "{pitch}", "-w", "{out}", "{word}"),
    ),
    "flite": Synthesizer(
        package="flite",
        voices=("kal", "kal16", "awb", "rms", "slt"),
        speeds=(0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3),  # of the voice's durations
        pitches=(85, 95, 105, 115, 125, 140, 155, 170, 185, 200),  # mean in Hz
        arguments=(
            *("-voice", "{voice}", "--setf", "duration_stretch={speed}"),
            *("--setf", "int_f0_target_mean={pitch}", "-o", "{out}", "-t", "{word}"),
        ),
    ),
}


@dataclass(frozen=True)
class Speaker:
    """A setting of a synthesizer; `id` is the hash of it, as 8 hexadecimal digits."""

    program: str
    voice: str
    speed: float
    pitch: float

    @property
    def id(self) -> str:
        setting = f"{self.program} {self.voice} {self.speed} {self.pitch}"
        return hashlib.sha1(setting.encode()).hexdigest()[:8]


def speakers(program: str, count: int, seed: int) -> list[Speaker]:
    """`count` distinct settings; each voice once before any is taken again."""
    own = SYNTHESIZERS[program]
    manners = list(product(own.speeds, own.pitches))
    if not 3 <= count <= len(own.voices) * len(manners):
        raise HalutError(
            f"--speakers must be in 3..{len(own.voices) * len(manners)} for {program}, got {count}"
        )
    draw = random.Random(seed)
    voices = draw.sample(own.voices, len(own.voices))
    orders = [draw.sample(manners, len(manners)) for _ in voices]
    chosen = []
    for i in range(count):
        turn, voice = divmod(i, len(voices))
        speed, pitch = orders[voice][turn]
        chosen.append(Speaker(program, voices[voice], speed, pitch))
    if len({speaker.id for speaker in chosen}) < count:
        raise HalutError("two speakers have one hash: take another --seed")
    return chosen


def split_of(speaker_id: str) -> str:
    """The split of a speaker by the data set's rule (Warden 2018): the SHA-1 of the id, modulo
    2^27, on a scale of 0 to 100: under 10 val, under 20 test, else train."""
    hashed = int(hashlib.sha1(speaker_id.encode()).hexdigest(), 16) % 2**27
    percentage = hashed * 100 / (2**27 - 1)
    return "val" if percentage < 10 else "test" if percentage < 20 else "train"


def splits(ids: Sequence[str], test_only: bool) -> dict[str, str]:
    """The split of every speaker; HalutError if one of the splits has none.

    test_only: the first speaker trains and the second validates, as readers of the layout ask for
    files of each; all others test.
    """
    if test_only:
        return {each: ("train", "val", "test")[min(i, 2)] for i, each in enumerate(ids)}
    split_by_id = {each: split_of(each) for each in ids}
    if absent := {"train", "val", "test"} - set(split_by_id.values()):
        raise HalutError(
            f"no speaker of {len(ids)} falls into {', '.join(sorted(absent))}: take more "
            "--speakers or another --seed"
        )
    return split_by_id


def clip(wave: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """One second of 16 kHz, int16 [16000], of wave [samples] or [samples, channels] at `rate`.

    Quiet ends are cut off, the peak is drawn from 0.2 to 0.9 and the place within the second from
    all that fit. Of a longer word the second of most energy stays.
    """
    scale = -float(np.iinfo(wave.dtype).min) if wave.dtype.kind == "i" else 1.0
    values = wave.reshape(len(wave), -1).mean(1) / scale
    values = resample_poly(values, RATE, rate) if rate != RATE else values
    loud = np.flatnonzero(np.abs(values) > QUIET * np.abs(values).max(initial=0.0))
    if not len(loud):
        raise HalutError("is silent")
    values = values[loud[0] : loud[-1] + 1]
    if len(values) > CLIP:
        energy = np.concatenate([[0.0], np.cumsum(values**2)])
        begin = int((energy[CLIP:] - energy[:-CLIP]).argmax())
        values = values[begin : begin + CLIP]
    values = values * (rng.uniform(0.2, 0.9) / np.abs(values).max())
    begin = int(rng.integers(CLIP - len(values) + 1))
    padded = np.pad(values, (begin, CLIP - len(values) - begin))
    return np.round(padded * 32767).astype(np.int16)


def background_noise(name: str, seed: int) -> np.ndarray:
    """One minute of noise of peak 0.9, int16: power even, as 1/f or as 1/f^2, or a hum in pink."""
    rng = _generator(seed, name)
    count = NOISE_SECONDS * RATE
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.arange(len(spectrum)) / NOISE_SECONDS
    exponent = {"white_noise": 0.0, "brown_noise": 1.0}.get(name, 0.5)
    spectrum *= np.where(frequency < 20, 0.0, np.maximum(frequency, 20) ** -exponent)
    wave = np.fft.irfft(spectrum, count)
    wave /= wave.std()
    if name == "mains_hum":
        time = np.arange(count) / RATE
        phases = rng.uniform(0, 2 * np.pi, 12)
        wave += sum(3 / n * np.sin(2 * np.pi * 50 * n * time + phases[n - 1]) for n in range(1, 13))
    return np.round(wave * (0.9 / np.abs(wave).max()) * 32767).astype(np.int16)


def record(speaker: Speaker, words: Sequence[str], folder: Path, seed: int) -> None:
    """Let a speaker say all words, into `folder`; HalutError naming what the program said."""
    own = SYNTHESIZERS[speaker.program]
    with tempfile.TemporaryDirectory() as place:
        for word in words:
            out = Path(place) / f"{word}.wav"
            values = {"voice": speaker.voice, "speed": speaker.speed, "pitch": speaker.pitch}
            arguments = [each.format(**values, out=out, word=word) for each in own.arguments]
            outcome = subprocess.run([speaker.program, *arguments], capture_output=True)
            try:
                if outcome.returncode:
                    last = outcome.stderr.decode(errors="replace").split("\n")[-2:]
                    raise HalutError(f"ended with {outcome.returncode}: {' '.join(last).strip()}")
                if not out.exists():
                    raise HalutError("wrote no file")
                rate, wave = wavfile.read(out)
                samples = clip(wave, rate, _generator(seed, f"{speaker.id}/{word}"))
            except (HalutError, ValueError) as error:
                command = " ".join([speaker.program, *arguments])
                raise HalutError(f"{command}: {error}") from error
            wavfile.write(folder / word / f"{speaker.id}_nohash_0.wav", RATE, samples)


def write(
    out: Path,
    program: str = "espeak-ng",
    words: Sequence[str] = WORDS,
    count: int = 60,
    seed: int = 0,
    processes: int = 1,
    test_only: bool = False,
) -> dict[str, int]:
    """Write the folder, whole or not at all; recordings of every split.

    Raises HalutError where the folder is there and not empty, or the synthesizer is missing.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise HalutError(f"--out {out} is there and not empty: name a new folder")
    for word in words:
        if not (word.isascii() and word.isalpha() and word.islower()):
            raise HalutError(f"--words must be of the letters a to z, got {word!r}")
    if len(set(words)) < len(words):
        raise HalutError("--words names a word twice")
    if processes < 1:
        raise HalutError(f"--processes must be at least 1, got {processes}")
    if shutil.which(program) is None:
        package = SYNTHESIZERS[program].package
        raise HalutError(f"{program} is not on the PATH: apt-get install {package}")
    everyone = speakers(program, count, seed)
    split_by_id = splits([speaker.id for speaker in everyone], test_only)
    with write_folder(out, marker=LISTS["test"]) as folder:
        for name in (*words, NOISE):
            (folder / name).mkdir()
        done = _recorded(everyone, words, folder, seed, processes)
        for _ in track(done, program, len(everyone), console=Console(stderr=True)):
            pass
        for name in NOISES:
            wavfile.write(folder / NOISE / f"{name}.wav", RATE, background_noise(name, seed))
        for split, name in LISTS.items():
            ids = sorted(each for each, own in split_by_id.items() if own == split)
            lines = [f"{word}/{each}_nohash_0.wav\n" for word in sorted(words) for each in ids]
            (folder / name).write_text("".join(lines))
    spoken = list(split_by_id.values())
    return {split: len(words) * spoken.count(split) for split in ("train", "val", "test")}


def _recorded(
    everyone: Sequence[Speaker], words: Sequence[str], folder: Path, seed: int, processes: int
) -> Iterator[None]:
    """Record every speaker, yielding after each.

    Threads suffice, as nearly all of the time goes into the synthesizer's own processes.
    """
    with ThreadPoolExecutor(processes) as pool:
        try:
            tasks = [pool.submit(record, speaker, words, folder, seed) for speaker in everyone]
            for task in tasks:
                task.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


def _generator(seed: int, name: str) -> np.random.Generator:
    """Draws of its own for every name and seed, in whatever order."""
    return np.random.default_rng(list(hashlib.sha1(f"{seed}/{name}".encode()).digest()))


def main() -> None:
    """Write the folder that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--synthesizer", choices=SYNTHESIZERS, default="espeak-ng")
    parser.add_argument("--words", nargs="+", default=WORDS, help="default: the data set's 35")
    parser.add_argument("--speakers", type=int, default=60, help="each says every word once")
    parser.add_argument("--seed", type=int, default=0, help="of speakers, places and loudness")
    parser.add_argument("--processes", type=int, default=1, help="of the synthesizer at once")
    parser.add_argument(
        "--test-only", action="store_true", help="all but one speaker each into the test split"
    )
    own = parser.parse_args()
    try:
        counts = write(
            own.out,
            own.synthesizer,
            own.words,
            own.speakers,
            own.seed,
            own.processes,
            own.test_only,
        )
    except (HalutError, OSError) as error:
        sys.exit(f"synthetic_speech: {error}")
    print(", ".join(f"{split} {count}" for split, count in counts.items()), "recordings")


if __name__ == "__main__":
    main()

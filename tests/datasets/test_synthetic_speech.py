"""Keyword data from synthesizers: layout, splits, determinism, refusals. The program is a stand-in
that copies prepared files, but for one slow test with the real ones."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from halut import data
from halut.errors import HalutError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "synthetic_speech.py"
SPEC = importlib.util.spec_from_file_location("synthetic_speech", SCRIPT)
speech = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = speech  # where dataclasses look annotations up
SPEC.loader.exec_module(speech)

FEW = {"count": 10, "seed": 10}  # speakers of all three splits: 6, 2 and 2

STAND_IN = """#!/bin/sh
here=${0%/*}
echo "$0 $*" >> "$here/log"
while [ $# -gt 1 ]; do
    case $1 in -w | -o) out=$2 ;; esac
    shift
done
cp "$here/$1.wav" "$out"
"""


def tone(seconds: float, rate: int, hertz: float = 400.0) -> np.ndarray:
    """A tone between silent tenths of a second, int16."""
    wave = 0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    return np.round(np.pad(wave, rate // 10) * 32767).astype(np.int16)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder on the PATH with both synthesizers, which know a few words."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in speech.SYNTHESIZERS:
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    for i, word in enumerate(speech.WORDS):
        wavfile.write(folder / f"{word}.wav", 22050, tone(0.3, 22050, 200 + 40 * i))
    wavfile.write(folder / "hush.wav", 16000, np.zeros(8000, np.int16))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(speech, "NOISE_SECONDS", 11)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def lines(folder: Path, split: str) -> list[str]:
    name = {"val": "validation_list.txt", "test": "testing_list.txt"}[split]
    return (folder / name).read_text().split()


# -- what is written -------------------------------------------------------------------------------


def test_the_layout_is_the_data_sets(programs, tmp_path):
    counts = speech.write(tmp_path / "out", words=("yes", "no"), **FEW)
    names = ["_background_noise_", "no", "testing_list.txt", "validation_list.txt", "yes"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert counts == {"train": 12, "val": 4, "test": 4}
    for word in ("yes", "no"):
        files = sorted((tmp_path / "out" / word).iterdir())
        assert len(files) == 10
        for file in files:
            assert re.fullmatch(r"[0-9a-f]{8}_nohash_0\.wav", file.name)
            rate, wave = wavfile.read(file)
            assert (rate, wave.dtype, wave.shape) == (16000, np.int16, (16000,))
            assert 0.2 * 32767 - 1 <= np.abs(wave).max() <= 0.9 * 32767 + 1
    noises = sorted((tmp_path / "out" / "_background_noise_").iterdir())
    assert {path.stem for path in noises} == set(speech.NOISES)
    for noise in noises:
        rate, wave = wavfile.read(noise)
        assert (rate, len(wave)) == (16000, 11 * 16000)
    for split in ("val", "test"):
        listed = lines(tmp_path / "out", split)
        assert len(listed) == len(set(listed)) == counts[split]
        assert all((tmp_path / "out" / line).is_file() for line in listed)


@pytest.mark.parametrize(
    ("speaker_id", "split"),
    [
        # int(sha1(id), 16) % 2^27 * 100 / (2^27 - 1)
        ("b6e7a22c", "val"),  # 0.23
        ("00f7eea0", "val"),  # 9.33
        ("7f03f3f2", "test"),  # 10.40
        ("05a8ea53", "test"),  # 19.80
        ("5c8f5ac0", "train"),  # 20.39
        ("9d323717", "train"),  # 99.82
    ],
)
def test_the_split_follows_the_published_rule(speaker_id, split):
    assert speech.split_of(speaker_id) == split


def test_no_speaker_is_in_two_splits(programs, tmp_path):
    speech.write(tmp_path / "out", words=("yes", "no", "up"), **FEW)
    every = {path.name for path in (tmp_path / "out" / "yes").iterdir()}
    val, test = (
        {line.split("/")[1] for line in lines(tmp_path / "out", split)} for split in ("val", "test")
    )
    assert not val & test
    assert val | test < every
    for split, names in (("val", val), ("test", test), ("train", every - val - test)):
        assert {speech.split_of(name.split("_")[0]) for name in names} == {split}
        if split != "train":
            assert len(lines(tmp_path / "out", split)) == 3 * len(names)


def test_the_loader_reads_it(programs, tmp_path):
    counts = speech.write(tmp_path / "out", words=speech.WORDS[:12], **FEW)
    module = data.build("speech_commands", root=str(tmp_path / "out"), workers=0)
    module.setup()
    assert module.class_names[10:] == ["silence", "unknown"]
    sizes = {name: len(split) for name, split in module.splits.items()}
    assert sizes == counts  # ten words, and as much of silence and of unknown as of one


def test_test_only_puts_one_speaker_each_into_the_other_splits(programs, tmp_path):
    counts = speech.write(tmp_path / "out", "flite", words=("yes", "no"), count=6, test_only=True)
    assert counts == {"train": 2, "val": 2, "test": 8}


# -- speakers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", sorted(speech.SYNTHESIZERS))
def test_speakers_have_distinct_settings_and_voices_as_long_as_there_are(program):
    voices = len(speech.SYNTHESIZERS[program].voices)
    for count in (voices, 2 * voices, 2 * voices + 1):
        everyone = speech.speakers(program, count, 0)
        assert len({(s.voice, s.speed, s.pitch) for s in everyone}) == count
        assert len({s.id for s in everyone}) == count
        assert len({s.voice for s in everyone[:voices]}) == voices
    assert speech.speakers(program, voices, 0) != speech.speakers(program, voices, 1)


@pytest.mark.parametrize("program", sorted(speech.SYNTHESIZERS))
def test_the_program_is_asked_for_the_speakers_setting(programs, tmp_path, program):
    speech.write(tmp_path / "out", program, words=("yes",), count=8, test_only=True)
    log = (programs / "log").read_text().splitlines()
    for line, speaker in zip(log, speech.speakers(program, 8, 0), strict=True):
        assert f" {speaker.voice} " in line
        assert f"{speaker.speed} " in line
        assert f"{speaker.pitch} " in line
        assert line.endswith(" yes")


# -- the same again --------------------------------------------------------------------------------


def test_the_same_options_write_the_same_bytes_on_any_number_of_processes(programs, tmp_path):
    for name, options in (("a", {}), ("b", {"processes": 3}), ("c", {"seed": 41})):
        speech.write(tmp_path / name, words=("yes", "no"), **{**FEW, **options})
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() != contents(tmp_path / "c").keys()


# -- a recording -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_a_clip_keeps_the_word_whole_at_16_khz(rate):
    wave = speech.clip(tone(0.5, rate), rate, np.random.default_rng(0))
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    assert loud[-1] - loud[0] == pytest.approx(8000, abs=40)
    spectrum = np.abs(np.fft.rfft(wave.astype(float)))
    assert spectrum.argmax() == pytest.approx(400, abs=1)


def test_words_lie_at_places_of_their_own():
    begins = set()
    for seed in range(20):
        wave = speech.clip(tone(0.3, 16000), 16000, np.random.default_rng(seed))
        begins.add(int(np.flatnonzero(wave)[0]))
    assert len(begins) > 15
    assert max(begins) - min(begins) > 3000


def test_of_a_long_word_the_loudest_second_stays():
    wave = tone(1.5, 16000).astype(np.float64) / 32768
    wave[: len(wave) // 4] *= 0.2
    cut = speech.clip(wave, 16000, np.random.default_rng(0)).astype(float)
    assert len(cut) == 16000
    assert np.abs(cut[:200]).max() > 0.9 * np.abs(cut).max()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"count": 2}, "--speakers must be in 3..139776 for espeak-ng, got 2"),
        ({"count": 3}, "no speaker of 3 falls into .*: take more --speakers or another --seed"),
        ({"words": ("yes", "../no")}, "--words must be of the letters a to z, got '../no'"),
        ({"words": ("yes", "yes")}, "--words names a word twice"),
        ({"processes": 0}, "--processes must be at least 1, got 0"),
        ({"words": ("hush",)}, r"espeak-ng -v .* hush: is silent"),
        ({"words": ("absent",)}, r"espeak-ng -v .* absent: ended with 1: cp: .*absent"),
        ({"words": ("absent",), "processes": 2}, r"absent: ended with 1"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(programs, tmp_path, options, says):
    with pytest.raises(HalutError, match=says) as refusal:
        speech.write(tmp_path / "out", **{"words": ("yes",), **FEW, **options})
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["programs"]


def test_a_folder_with_files_stays_as_it_is(programs, tmp_path):
    speech.write(tmp_path / "out", words=("yes",), **FEW)
    before = contents(tmp_path / "out")
    with pytest.raises(HalutError, match="is there and not empty: name a new folder"):
        speech.write(tmp_path / "out", words=("no",), **FEW)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("program", sorted(speech.SYNTHESIZERS))
def test_a_missing_program_names_its_package(tmp_path, program):
    (tmp_path / "empty").mkdir()
    outcome = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path / "out", "--synthesizer", program],
        env={"PATH": str(tmp_path / "empty"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    says = f"synthetic_speech: {program} is not on the PATH: apt-get install {program}\n"
    assert (outcome.returncode, outcome.stderr) == (1, says)


# -- the real ones ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(speech.SYNTHESIZERS))
def test_real_voices_differ(tmp_path, program):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    speech.write(tmp_path / "out", program, words=("yes", "no"), count=40, test_only=True)
    for word in ("yes", "no"):
        waves = [wavfile.read(path)[1] for path in (tmp_path / "out" / word).iterdir()]
        spectra = {np.abs(np.fft.rfft(wave)).round(-3).tobytes() for wave in waves}
        assert len(spectra) == 40  # wherever in its second a word lies

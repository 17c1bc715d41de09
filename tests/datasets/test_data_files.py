"""Names and lists of any encoding, and image files of every kind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halut.data.files import files, finder, folders, printable, read_lines, walk
from halut.data.image_reading import inspect, read_image
from halut.errors import HalutError

NAMES = ["yes/a.wav", "no/b c.wav", "café/d.wav"]
LATIN = os.fsdecode("café".encode("latin-1"))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


# -- names ----------------------------------------------------------------------------------------


def test_hidden_files_and_folders_named_like_files_are_left_out(tmp_path):
    for name in ("b.JPG", "a.Png", "._a.png", ".hidden/c.png", "__MACOSX/._d.png", "e.txt"):
        touch(tmp_path / name)
    (tmp_path / "f.jpg").mkdir()
    assert files("place", tmp_path, (".jpg", ".png")) == ["a.Png", "b.JPG"]
    assert folders(tmp_path) == ["f.jpg"]


def test_walk_follows_links_once_and_survives_loops(tmp_path):
    touch(tmp_path / "class/sub/a.jpg")
    (tmp_path / "class/sub/up").symlink_to(tmp_path / "class")
    (tmp_path / "class/again").symlink_to(tmp_path / "class/sub")
    touch(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "class/link").symlink_to(tmp_path / "elsewhere")
    names = [Path(name).name for name in walk("place", tmp_path / "class", (".jpg",))]
    assert sorted(names) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("target", ["nowhere.jpg", "self.jpg"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, target):
    (tmp_path / "self.jpg").symlink_to(tmp_path / target)
    with pytest.raises(HalutError, match=r"place: .*self\.jpg is no file, or a broken link"):
        files("place", tmp_path, (".jpg",))


@pytest.mark.parametrize("name", [b"\xff\xe9.jpg", b"new\nline.jpg", "é.jpg".encode()])
def test_any_name_is_printed_in_one_line(name):
    message = printable(os.fsdecode(name))
    assert message.encode().decode() == message
    assert "\n" not in message
    assert message.endswith(".jpg")


# -- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_any_encoding_and_line_end(tmp_path, encoding, end):
    lines = ["", *NAMES, "  ", NAMES[0], ""]
    (tmp_path / "list.txt").write_bytes(end.join(lines).encode(encoding))
    assert read_lines("place", tmp_path / "list.txt") == [*NAMES, NAMES[0]]


def test_lines_of_latin_1_and_utf_32(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("café\nyes\n".encode("latin-1") + "naïve\n".encode())
    assert read_lines("place", path) == ["café", "yes", "naïve"]
    path.write_bytes("café\nyes\n".encode("utf-32"))
    assert read_lines("place", path) == ["café", "yes"]
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(HalutError, match=r"place: .*list\.txt is no text"):
        read_lines("place", path)
    with pytest.raises(HalutError, match=r"cannot read .*none\.txt: No such file"):
        read_lines("place", tmp_path / "none.txt")


def test_listed_names_are_found_however_they_are_written():
    find = finder(["cafe\u0301/A.WAV", f"{LATIN}/b.wav", "no/c.wav", "no/C.wav"])
    assert find("café/A.WAV") == "cafe\u0301/A.WAV"
    assert find("café/a.wav") == "cafe\u0301/A.WAV"
    assert find("café/b.wav") == f"{LATIN}/b.wav"
    assert find(r".\no\c.wav") == "no/c.wav"
    assert find("no/C.wav") == "no/C.wav"
    assert find("NO/C.WAV") is None  # of two, neither is meant
    assert find("no/d.wav") is None


# -- pictures -------------------------------------------------------------------------------------

RAMP = (np.arange(64 * 64, dtype=np.uint32) * 16).reshape(64, 64)  # 0..65520


def picture(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("tif", "<i4"), ("pgm", "<u2")],
)
def test_16_bit_gray_is_divided_by_257(tmp_path, channels, suffix, kind):
    path = picture(tmp_path / f"a.{suffix}", RAMP.astype(kind))
    pixels = np.asarray(read_image("place", path, channels))
    expected = np.rint(RAMP / 257).astype(np.uint8)
    np.testing.assert_array_equal(
        pixels, expected if channels == 1 else np.stack([expected] * 3, -1)
    )


def test_12_bits_in_16_fill_the_range_with_white_set(tmp_path):
    path = picture(tmp_path / "a.png", (RAMP // 16).astype(np.uint16))
    assert np.asarray(read_image("place", path, 1)).max() == 16
    pixels = np.asarray(read_image("place", path, 1, white=4095))
    np.testing.assert_array_equal(pixels, np.rint(RAMP // 16 * (255 / 4095)).astype(np.uint8))


def test_floats_are_0_to_1_and_anything_else_is_named(tmp_path):
    path = picture(tmp_path / "a.tif", (RAMP / 65520).astype(np.float32))
    assert np.asarray(read_image("place", path, 1)).max() == 255
    picture(path, (RAMP / 257).astype(np.float32))
    with pytest.raises(
        HalutError, match=r"cannot read .*a\.tif: it holds 0\.\.254\.9.*data\.white"
    ):
        read_image("place", path)
    assert np.asarray(read_image("place", path, 1, white=255)).max() == 255
    picture(path, np.array([[0.5, np.nan]], np.float32))
    with pytest.raises(HalutError, match=r"cannot read .*a\.tif: it holds NaN or infinity"):
        read_image("place", path)
    picture(path, np.array([[70000, 0]], np.int32))
    with pytest.raises(HalutError, match=r"it holds 0\.\.70000"):
        read_image("place", path)


MODES = [("1", "png"), ("L", "png"), ("LA", "png"), ("P", "gif"), ("RGBA", "png"), ("CMYK", "jpg")]


@pytest.mark.parametrize(("mode", "suffix"), [*MODES, ("YCbCr", "jpg"), ("RGB", "bmp")])
def test_other_modes_are_read_as_torchvision_and_timm_do(tmp_path, mode, suffix):
    from torchvision.datasets.folder import pil_loader

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    path = tmp_path / f"a.{suffix}"
    image.convert(mode).save(path)
    np.testing.assert_array_equal(read_image("place", path), pil_loader(str(path)))


def test_transparency_of_a_palette_warns_nobody(tmp_path, recwarn):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    image.convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert read_image("place", tmp_path / "a.png").mode == "RGB"
    assert not recwarn.list


def test_exif_orientation_counts_where_it_is_enabled(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image("place", tmp_path / "a.jpg").size == (8, 4)  # as torchvision and timm
    assert read_image("place", tmp_path / "a.jpg", upright=True).size == (4, 8)


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    raw = (tmp_path / "a.jpg").read_bytes()
    at = raw.index(b"Exif") + 14
    (tmp_path / "a.jpg").write_bytes(raw[:at] + b"\xff" * 12 + raw[at + 12 :])
    assert read_image("place", tmp_path / "a.jpg", upright=True).size == (8, 4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "ppm", "webp"])
def test_a_truncated_file_is_named_without_decoding_the_others(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    good, bad = (tmp_path / f"{name}.{suffix}" for name in ("good", "bad"))
    picture(good, noise)
    picture(bad, noise)
    assert inspect("place", tmp_path, [good.name])[0].width == 80
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    with pytest.raises(HalutError, match=rf"place: cannot read {bad}"):
        inspect("place", tmp_path, [good.name, bad.name])
    with pytest.raises(HalutError, match=rf"place: cannot read {bad}"):
        read_image("place", bad)


def test_all_that_are_no_images_are_counted(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"<html>not found</html>")
    with pytest.raises(HalutError, match=r"empty\.png: it is empty \(and 1 more like it\)"):
        inspect("place", tmp_path, ["empty.png", "text.jpg"])
    with pytest.raises(HalutError, match=r"text\.jpg: is not an image"):
        read_image("place", tmp_path / "text.jpg")

"""The store of films: order, faults, and calls that are killed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmark.data.film_store as film_store
from benchmark.data.film_store import read_sums, write_films
from benchmark.data.films import decode
from benchmark.data.rules import Rules
from benchmark.errors import UserError


def made(folder: Path, count: int) -> list[Path]:
    """Films of different brightness in folders of their own, as the release has them."""
    paths = [folder / "files" / "p10" / "p1000" / f"s{i}" / f"{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        grey = np.linspace(0, 200, 280)[:, None] * np.ones(300) + i
        Image.fromarray(grey.astype(np.uint8)).save(path)
    return paths


def stored(out: Path) -> np.ndarray:
    return np.load(out / "films" / "pixels.npy")


def test_unusable_films_have_a_reason_and_take_no_room(tmp_path) -> None:
    good = made(tmp_path, 3)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.jpg").write_bytes(good[0].read_bytes()[:1500])
    named = [tmp_path / f"{name}.jpg" for name in ("text", "empty", "cut", "absent")]
    calls = []
    paths = [good[0], named[0], good[1], *named[1:], good[2]]
    written = write_films(paths, tmp_path / "out", progress=lambda *call: calls.append(call), threads=2)
    assert written.rows.tolist() == [0, -1, 1, -1, -1, -1, 2]
    assert written.reasons == {1: "no JPEG or PNG image", 3: "an empty file", 4: "cut short", 5: "no such file"}
    for row, path in enumerate(good):
        np.testing.assert_array_equal(stored(tmp_path / "out")[row], decode(path))
    assert calls[-1] == ("films", 7, 7)
    assert sorted(path.name for path in (tmp_path / "out" / "films").iterdir()) == ["journal.jsonl", "pixels.npy"]


def test_no_film_at_all(tmp_path) -> None:
    for _ in range(2):
        assert write_films([], tmp_path).rows.shape == (0,)
        assert stored(tmp_path).shape == (0, 256, 256)


@pytest.fixture
def counted(monkeypatch) -> list[Path]:
    """Films that were decoded, four a block."""
    seen: list[Path] = []
    monkeypatch.setattr(film_store, "_TELLING", 3)
    monkeypatch.setattr(film_store, "BLOCK", 4)
    monkeypatch.setattr(film_store, "decode", lambda path, *rest: seen.append(path) or decode(path, *rest))
    return seen


KILLED = """
import os, sys
from pathlib import Path
import benchmark.data.film_store as film_store
film_store.BLOCK = 4
original = film_store._Journal.append
def append(journal, films, stored):
    if journal.looked_at == 8:
        with open(sys.argv[1] + "/films/.pixels.part", "ab") as file:
            file.write(b"torn")
        os.kill(os.getpid(), 9)
    original(journal, films, stored)
film_store._Journal.append = append
film_store.write_films([Path(path) for path in sys.argv[2:]], Path(sys.argv[1]), threads=2)
"""


def test_a_killed_call_goes_on_where_it_was(tmp_path, counted) -> None:
    """Killed when the bytes of the third block are in the file and the journal does not know of them."""
    paths = made(tmp_path, 14)
    paths[2].write_bytes(b"damaged")
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), *map(str, paths)])
    assert done.returncode == -signal.SIGKILL
    assert not (out / "films" / "pixels.npy").exists()
    written = write_films(paths, out, threads=1)
    assert counted == paths[8:]
    assert written.reasons == {2: "no JPEG or PNG image"}
    write_films(paths, tmp_path / "fresh", threads=1)
    np.testing.assert_array_equal(stored(out), stored(tmp_path / "fresh"))
    journals = [(folder / "films" / "journal.jsonl").read_text() for folder in (out, tmp_path / "fresh")]
    assert journals[0] == journals[1]


@pytest.mark.parametrize("fault", ["flipped byte", "short file", "another film", "torn journal", "no journal"])
def test_a_damaged_part_is_decoded_again(tmp_path, counted, monkeypatch, fault: str) -> None:
    paths, out = made(tmp_path, 12), tmp_path / "out"
    if fault == "another film":  # as while an archive is still being copied
        paths[6].rename(tmp_path / "kept")
        paths[6].write_bytes((tmp_path / "kept").read_bytes()[:-100])
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_films(paths, out, threads=1)
    monkeypatch.undo()
    monkeypatch.setattr(film_store, "BLOCK", 4)
    again: list[Path] = []
    monkeypatch.setattr(film_store, "decode", lambda path, *rest: again.append(path) or decode(path, *rest))
    part, journal = out / "films" / ".pixels.part", out / "films" / "journal.jsonl"
    if fault == "flipped byte":  # in the second block
        data = bytearray(part.read_bytes())
        data[128 + 5 * 65536] ^= 1
        part.write_bytes(data)
    elif fault == "short file":
        os.truncate(part, 128 + 9 * 65536)
    elif fault == "another film":
        (tmp_path / "kept").replace(paths[6])
    elif fault == "torn journal":
        journal.write_text(journal.read_text()[:-10])
    else:
        journal.unlink()
    written = write_films(paths, out, threads=1)
    first = {"flipped byte": 4, "short file": 8, "another film": 4, "torn journal": 8, "no journal": 0}[fault]
    assert again == paths[first:]
    whole = write_films(paths, tmp_path / "fresh", threads=1)
    assert written.rows.tolist() == whole.rows.tolist()
    np.testing.assert_array_equal(stored(out), stored(tmp_path / "fresh"))


def test_a_finished_store_is_taken_as_it_is_for_the_same_films_only(tmp_path, counted) -> None:
    paths = made(tmp_path, 6)
    paths[1].unlink()
    first = write_films(paths, tmp_path)
    del counted[:]
    again = write_films(paths, tmp_path)
    assert not counted and again.rows.tolist() == first.rows.tolist() and again.reasons == first.reasons
    for changed in (
        lambda: write_films(paths[:5], tmp_path),
        lambda: write_films(paths, tmp_path),
        lambda: write_films(paths, tmp_path, rules=Rules(film_pixels="twice")),
    ):
        del counted[:]
        rows = changed().rows
        assert len(counted) == len(rows) and len(stored(tmp_path)) == (rows >= 0).sum()
    os.truncate(tmp_path / "films" / "pixels.npy", 1000)
    write_films(paths, tmp_path, rules=Rules(film_pixels="twice"))
    assert len(stored(tmp_path)) == 5


def test_published_checksums_find_what_the_decoder_does_not(tmp_path) -> None:
    paths = made(tmp_path, 3)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(tmp_path)}" for path in paths[:2]]
    (tmp_path / "SHA256SUMS.txt").write_text("\n".join([*lines, "00 LICENSE.txt"]) + "\n")
    data = bytearray(paths[1].read_bytes())
    data[-40] ^= 8
    paths[1].write_bytes(data)
    assert write_films(paths, tmp_path / "a").reasons == {}
    sums = read_sums(tmp_path, paths)
    assert len(sums) == 2
    written = write_films(paths, tmp_path / "b", sums=sums)
    assert written.reasons == {1: "its checksum is not the published one"}
    (tmp_path / "SHA256SUMS.txt").write_text(f"123 {paths[0].relative_to(tmp_path)}\n")
    with pytest.raises(UserError, match=r"line 1: '123' is no SHA-256"):
        read_sums(tmp_path, paths)
    assert read_sums(tmp_path / "nowhere", paths) == {}


def test_checksums_of_other_files_are_told_apart_from_damage(tmp_path, counted) -> None:
    """A folder of films that were made smaller still has the list of the originals."""
    paths = made(tmp_path, 4)
    sums = dict.fromkeys(("/".join(path.parts[-4:]) for path in paths), "0" * 64)
    with pytest.raises(UserError, match=r"none of the first 4 films has its checksum of SHA256SUMS\.txt"):
        write_films(paths, tmp_path, sums=sums)


def test_a_full_disk_is_found_before_the_work(tmp_path, monkeypatch) -> None:
    usage = film_store.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(film_store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"need 0\.1 MB more in .*; 0\.0 MB are free"):
        write_films(made(tmp_path, 1), tmp_path)


def test_the_journal_names_no_film(tmp_path) -> None:
    paths = made(tmp_path, 2)
    (tmp_path / "12345.jpg").write_text("x")
    write_films([*paths, tmp_path / "12345.jpg"], tmp_path)
    key, *blocks = (tmp_path / "films" / "journal.jsonl").read_text().splitlines()
    assert len(key) == 64 and [sorted(json.loads(block)) for block in blocks] == [["bad", "crc", "films", "seen"]]
    assert "12345" not in "".join(blocks)

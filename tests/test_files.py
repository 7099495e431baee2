import errno
import os
import stat
import threading

import pytest

from advjax import files
from advjax.errors import AdvjaxError


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["notes.txt", "notes", ".hidden", "a.b.png", "n" * 251 + ".png"])
def test_content_is_written_and_nothing_else_is_left(name, tmp_path):
    target = tmp_path / "new" / "folders" / name
    for content in (b"first", b"", b"second"):
        files.write_bytes(target, content)
        assert target.read_bytes() == content
    assert listing(target.parent) == [name]


def test_text_is_utf8_as_it_stands(tmp_path):
    files.write_text(tmp_path / "t", "naïve\r\n\u2713\n")
    assert (tmp_path / "t").read_bytes() == "naïve\r\n\u2713\n".encode()


def test_the_temporary_name_is_in_the_same_folder_and_keeps_the_suffix(tmp_path):
    with files.atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        temporary.touch()


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_writer_that_fails_changes_nothing(error, old, tmp_path):
    target = tmp_path / "target"
    if old is not None:
        target.write_bytes(old)

    def write():
        with files.atomic_path(target) as temporary:
            temporary.write_bytes(b"half of i")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write()
    assert listing(tmp_path) == ([] if old is None else ["target"])
    assert old is None or target.read_bytes() == old


def test_a_full_disk_is_one_clear_line(tmp_path):
    def write():
        with files.atomic_path(tmp_path / "big") as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(AdvjaxError, match=r"cannot write '.*big': No space left on device; choose"):
        write()
    assert listing(tmp_path) == []


@pytest.mark.parametrize("place", ["folder", "file/below", ".", "file/a/b"])
def test_places_that_cannot_be_written(place, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").touch()
    (tmp_path / "file").touch()
    with pytest.raises(AdvjaxError, match=r"cannot write .*; choose another place") as caught:
        files.write_bytes(tmp_path / place, b"content")
    assert repr(str(tmp_path / place)) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert listing(tmp_path) == ["file", "folder"]
    assert listing(tmp_path / "folder") == ["inside"]


@pytest.mark.parametrize("place", ["/", ".", "/proc/advjax", "/dev/null/advjax"])
def test_places_of_the_system_that_cannot_be_written(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdvjaxError, match=r"cannot write .*; choose another place"):
        files.write_bytes(place, b"content")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(mask, tmp_path):
    before = os.umask(mask)
    try:
        files.write_bytes(tmp_path / "f", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666 & ~mask


def test_a_reader_never_sees_half_a_file(tmp_path):
    target = tmp_path / "f"
    contents = [bytes([i]) * 100_000 for i in range(2)]
    files.write_bytes(target, contents[0])
    done = threading.Event()

    def write():
        for i in range(50):
            files.write_bytes(target, contents[i % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert target.read_bytes() in contents
    writer.join()
    assert listing(tmp_path) == ["f"]


def test_a_lock_makes_its_folder_and_is_held_by_one_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    path, busy = tmp_path / "new" / ".lock", AdvjaxError("somebody is at work")
    with files.locked(path, busy):
        with pytest.raises(AdvjaxError, match="somebody is at work"), files.locked(path, busy):
            pass
        thread = threading.Thread(target=lambda: files.locked(path).__enter__(), daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()  # it waits
    thread.join(10)
    assert not thread.is_alive()


def test_a_lock_in_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(AdvjaxError, match=r"cannot write '.*lock'.*; choose another place"),
        files.locked(tmp_path / "file" / "lock"),
    ):
        pass

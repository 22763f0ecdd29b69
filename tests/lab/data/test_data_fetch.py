import hashlib
import http.server
import tarfile
import threading

import pooch
import pytest

from onsphere.lab.data import DataError
from onsphere.lab.data.fetch import cache_folder, fetch, unpack

CONTENT = b"official bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REAL_RETRIEVE = pooch.retrieve  # read here, before a fixture takes the network away


@pytest.fixture
def server(monkeypatch):
    """A local web server that knows /good/set.bin and /bad/set.bin; gives its address and the list of requests."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = {"/good/set.bin": CONTENT, "/bad/set.bin": b"something else"}.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    monkeypatch.setattr(pooch, "retrieve", REAL_RETRIEVE)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_downloads_once_and_keeps(server):
    address, asked = server
    for _ in range(2):
        path = fetch("set", [f"{address}/good/set.bin"], SHA256, instead="bring it")
        assert path.read_bytes() == CONTENT and path.parent == cache_folder()
    assert asked == ["/good/set.bin"]


def test_second_address_helps_out(server):
    address, asked = server
    urls = [f"{address}/{place}/set.bin" for place in ("missing", "bad", "good")]
    assert fetch("set", urls, SHA256, instead="bring it").read_bytes() == CONTENT
    assert asked == ["/missing/set.bin", "/bad/set.bin", "/good/set.bin"]


def test_wrong_checksum_and_missing_file_are_told_apart(server):
    address, _ = server
    with pytest.raises(DataError) as caught:
        fetch("set", [f"{address}/bad/set.bin", f"{address}/missing/set.bin"], SHA256, instead="bring it")
    message = str(caught.value)
    assert "bad/set.bin: wrong checksum" in message and "missing/set.bin: HTTPError" in message
    assert message.startswith("set: download failed") and message.endswith("bring it") and "\n" not in message
    assert not (cache_folder() / "set.bin").exists()


def test_without_pooch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(DataError, match="needs pooch, which is not installed"):
        fetch("set", ["http://localhost/set.bin"], SHA256, instead="bring it")


def pack(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                source = path.parent / "content"
                source.write_bytes(content)
                with source.open("rb") as file:
                    info.size = len(content)
                    tar.addfile(info, file)


def test_unpacks_only_what_was_asked_for(tmp_path):
    pack(
        tmp_path / "a.tar.gz",
        {"top/one": b"1", "../escape": b"x", "/absolute": b"x", "top/two": b"2", "top/link": None},
    )
    unpack(tmp_path / "a.tar.gz", ["top/one", "top/two"], tmp_path / "out" / "top")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "top").iterdir()} == {"one": b"1", "two": b"2"}
    assert not (tmp_path / "escape").exists() and not (tmp_path / "out" / "escape").exists()


@pytest.mark.parametrize(
    ("members", "message"),
    [({"top/one": b"1"}, "holds no top/two"), ({"top/one": b"1", "top/two": None}, "top/two is not a plain file")],
)
def test_all_or_nothing(tmp_path, members, message):
    pack(tmp_path / "a.tar.gz", members)
    with pytest.raises(DataError, match=message):
        unpack(tmp_path / "a.tar.gz", ["top/one", "top/two"], tmp_path / "out" / "top")
    assert list((tmp_path / "out").iterdir()) == []


def test_damaged_archives(tmp_path):
    pack(tmp_path / "a.tar.gz", {"top/one": bytes(range(256)) * 400})
    content = (tmp_path / "a.tar.gz").read_bytes()
    for damaged in (b"", b"no archive", content[: len(content) // 2]):
        (tmp_path / "b.tar.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"b\.tar\.gz"):
            unpack(tmp_path / "b.tar.gz", ["top/one"], tmp_path / "out" / "top")
        assert list((tmp_path / "out").iterdir()) == []


def test_an_unpacked_folder_stays(tmp_path):
    pack(tmp_path / "a.tar.gz", {"top/one": b"1"})
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "one").write_bytes(b"from another process")
    unpack(tmp_path / "a.tar.gz", ["top/one"], tmp_path / "top")
    assert (tmp_path / "top" / "one").read_bytes() == b"from another process"

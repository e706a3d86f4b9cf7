"""Fetching over HTTP, against a server on this machine."""

import dataclasses
import hashlib
import http.server
import socket
import threading

import pytest

from engine.data import download as module
from engine.data import sources
from engine.data.datasets import Download
from engine.data.download import download
from engine.errors import UserError

CONTENT = bytes(range(256)) * 2000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /file, whole or from where the client asks; half of it at /broken; bytes of another file at /other."""

    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        if self.path == "/missing":
            return self.send_error(404)
        content = CONTENT[::-1] if self.path == "/other" else CONTENT
        start = int(self.headers["Range"][6:-1]) if "Range" in self.headers and self.path != "/no-ranges" else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : len(content) // 2 if self.path == "/broken" else None])
        return None

    def log_message(self, *arguments):
        """Keep the test's output clean."""


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.ranges = []
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        download(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_comes_whole_and_progress_ends_at_its_size(server, tmp_path):
    seen = []
    download(f"{server.url}/file", MD5, tmp_path / "new" / "file", seen.append)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT) and seen == sorted(seen)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_file_that_is_there_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    download(f"{server.url}/file", MD5, tmp_path / "file")
    assert server.ranges == []


def test_a_broken_connection_is_said_and_continued_from_where_it_broke(server, tmp_path):
    assert f"{len(CONTENT) // 2} of {len(CONTENT)} bytes" in refusal(f"{server.url}/broken", MD5, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    download(f"{server.url}/file", MD5, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_server_that_cannot_continue_sends_it_all_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    download(f"{server.url}/no-ranges", MD5, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_was_whole_already_is_taken(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(f"{server.url}/file", MD5, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_another_files_bytes_are_refused_and_not_kept(server, tmp_path):
    (tmp_path / "file").write_bytes(b"the user's")
    assert MD5 in refusal(f"{server.url}/other", MD5, tmp_path / "file")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"the user's"}


def test_a_missing_page_and_a_dead_server_are_one_line(server, tmp_path):
    assert "Not Found" in refusal(f"{server.url}/missing", MD5, tmp_path / "file")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        assert "refused" in refusal(address, MD5, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_into_one_another(server, tmp_path):
    with (tmp_path / "file.part").open("ab") as file:
        module._claim(file, tmp_path / "file")
        assert "another process" in refusal(f"{server.url}/file", MD5, tmp_path / "file")


def test_fetch_puts_all_files_of_a_dataset_in_its_folder(server, tmp_path, monkeypatch):
    files = tuple(Download(f"{server.url}/{name}", len(CONTENT), MD5) for name in ("file", "no-ranges"))
    entry = dataclasses.replace(sources._dataset("cifar10"), downloads=files)
    monkeypatch.setattr(sources, "DATASETS", (entry,))
    seen = []
    assert sources.fetch("cifar10", tmp_path, lambda done, total: seen.append((done, total))) == tmp_path / "cifar10"
    assert sorted(path.name for path in (tmp_path / "cifar10").iterdir()) == ["file", "no-ranges"]
    assert seen[-1] == (2 * len(CONTENT), 2 * len(CONTENT)) and seen == sorted(seen)


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_what_cannot_be_fetched_says_where_it_comes_from(tmp_path, name):
    with pytest.raises(UserError, match="scikit-learn|dataset.root"):
        sources.fetch(name, tmp_path)


@pytest.mark.parametrize("name", ["imagenet-10", "imagenet-1k", "imagenet-21k-p"])
def test_what_a_licence_forbids_to_fetch_says_so_and_which_files_go_where(tmp_path, name):
    with pytest.raises(UserError, match="its licence lets no program hand it on: ask for it at image-net.org") as caught:
        sources.fetch(name, tmp_path)
    assert str(tmp_path / name) in str(caught.value) and "/<number>/…" in str(caught.value) and ".tar" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_real_addresses_have_their_published_checksums():
    assert {file.file_name: (file.size, file.md5[:4]) for entry in sources.DATASETS for file in entry.downloads} == {
        "train-images-idx3-ubyte.gz": (26421880, "8d4f"),
        "train-labels-idx1-ubyte.gz": (29515, "25c8"),
        "t10k-images-idx3-ubyte.gz": (4422102, "bef4"),
        "t10k-labels-idx1-ubyte.gz": (5148, "bb30"),
        "cifar-10-python.tar.gz": (170498071, "c58f"),
        "cifar-100-python.tar.gz": (169001437, "eb90"),
        "tiny-imagenet-200.zip": (248100043, "9052"),
    }

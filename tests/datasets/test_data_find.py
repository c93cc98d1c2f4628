"""Where files are looked for, downloads with checksums, and what is said when nothing is found."""

import functools
import hashlib
import http.server
import threading

import pytest

from nsim.datasets import SHD, SSC, find
from nsim.datasets.find import Source
from nsim.errors import DataError, ParameterError


@pytest.fixture
def source():
    return Source("test data", ("a.bin", "a.bin.gz"), ("Folder", "other"), ())


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_order_of_places(tmp_path, own_cache, monkeypatch, source):
    cached = put(own_cache / "downloads" / "Folder" / "a.bin")
    assert find.find(source) == cached
    monkeypatch.setenv("NSIM_DATA", str(tmp_path / "data"))
    assert find.find(source) == cached
    inside = put(tmp_path / "data" / "other" / "a.bin.gz")
    assert find.find(source) == inside
    plain = put(tmp_path / "data" / "a.bin.gz")
    assert find.find(source) == plain
    assert find.find(source, tmp_path / "data" / "other") == inside


def test_root_is_the_only_place_where_given(tmp_path, own_cache, source):
    put(own_cache / "downloads" / "a.bin")
    with pytest.raises(DataError, match=r"no such folder.*\n.*way out: correct root") as caught:
        find.find(source, tmp_path / "nowhere")
    assert "a.bin, a.bin.gz" in str(caught.value)


def test_nothing_found_says_where_and_what_to_do(own_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("NSIM_DATA", str(tmp_path / "typo"))
    for kind, split in ((SHD, "train"), (SSC, "valid")):
        with pytest.raises(DataError) as caught:
            kind(split)
        for word in (
            f"{kind.stem}_{split}.h5.zip", "typo (no such folder)", str(own_cache), "zenkelab.org", "compneuro.net",
            "no network in tests", "NSIM_DATA", "Synthetic",
        ):  # fmt: skip
            if kind is SHD or word != "compneuro.net":
                assert word in str(caught.value), word
    with pytest.raises(DataError) as caught:
        SHD("train", download=False)
    assert "download failed" not in str(caught.value)


def test_splits():
    for kind, split in ((SHD, "valid"), (SSC, "dev")):
        with pytest.raises(ParameterError, match=f"split = '{split}'; expected one of train"):
            kind(split)


@pytest.fixture
def server(tmp_path):
    """Serves a folder at an address of this machine, once the tests' ban on the network is lifted."""
    folder = tmp_path / "served"
    folder.mkdir()
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()


def test_download_with_checksum_and_second_address(server, shd_archives, own_cache, monkeypatch, fetch):
    folder, address = server
    monkeypatch.setattr("nsim.datasets.find._fetch", fetch)
    content = shd_archives[0].read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    put(folder / "shd_train.h5.gz", content)
    name = "shd_train.h5.gz"
    downloads = ((name, f"{address}missing.gz", md5), (name, address + name, md5))
    path = find.find(Source("SHD", (name,), ("SHD",), downloads))
    assert path == own_cache / "downloads" / "SHD" / name and path.read_bytes() == content
    assert len(SHD("train")) == 3


def test_wrong_checksum(server, own_cache, monkeypatch, fetch):
    folder, address = server
    monkeypatch.setattr("nsim.datasets.find._fetch", fetch)
    put(folder / "a.bin", b"tampered")
    source = Source("test data", ("a.bin",), ("Folder",), (("a.bin", f"{address}a.bin", "0" * 32),))
    with pytest.raises(DataError, match=r"download failed.*hash"):
        find.find(source)
    assert not [p for p in own_cache.rglob("*") if p.is_file()]

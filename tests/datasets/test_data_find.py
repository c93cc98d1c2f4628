"""Where files are looked for, downloads with checksums, and what is said when nothing is found."""

import functools
import gzip
import hashlib
import http.server
import threading
import warnings
from pathlib import Path

import h5py
import pytest

from nsim.datasets import NMNIST, SHD, SSC, FashionMNIST, find, images, nmnist, shd
from nsim.datasets.find import Source
from nsim.errors import DataError, EventWarning, MissingDataError, ParameterError


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
    for kind, split, words in ((SHD, "valid", '"train" or "test"'), (SSC, "dev", '"train", "valid" or "test"')):
        with pytest.raises(ParameterError, match=f"{kind.title}: split = '{split}': expected {words}"):
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


def told(make, times=2):
    """What making a data set some times says, and the last of them."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(times):
            data = make()
    assert all(w.category is EventWarning and w.filename == __file__ for w in seen)
    return [str(w.message) for w in seen], data


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("cache", [True, False])
def test_a_file_that_is_not_the_published_one_is_told_once(shd_file, cache, monkeypatch):
    def make():
        return SHD("train", shd_file.parent, cache=cache)

    with h5py.File(shd_file, "a") as file:
        stamp = file.attrs.pop("nsim_fingerprint")
    said, data = told(make)
    assert len(said) == 1 and f"{shd_file}: its content (MD5 {md5(shd_file)}) is not that of the published" in said[0]
    assert data.name == "SHD (unverified copy: shd_train.h5)"
    find._told.clear()
    monkeypatch.setitem(shd.MD5, "shd_train.h5", md5(shd_file))
    assert told(make)[0] == [] and make().name == "SHD"
    with h5py.File(shd_file, "a") as file:
        file.attrs["nsim_fingerprint"] = stamp
    said, data = told(make)
    assert said == [] and data.name == "SHD (unverified copy: shd_train.h5)"  # damage in it would be seen


def test_regenerated_recordings_say_so_themselves(shd_file):
    with h5py.File(shd_file, "a") as file:
        del file.attrs["nsim_fingerprint"]
    folder = shd_file.parent.rename(shd_file.parent.with_name("shd-regenerated"))
    said, data = told(lambda: SHD("train", folder))
    assert len(said) == 1 and "shd_train.h5: it has no checksum and is no published file" in said[0]
    assert data.name == "SHD (regenerated)"


@pytest.mark.parametrize("polarity", ["keep", "merge"])
def test_archives_of_nmnist(nmnist_zip, monkeypatch, polarity):
    def make():
        return NMNIST("train", nmnist_zip.parent, polarity=polarity)

    assert told(make)[0] == []  # a part of the recordings, and called so
    monkeypatch.setitem(nmnist.OFFICIAL, "train", 4)
    said, data = told(make)
    assert len(said) == 1 and "Train.zip: its content" in said[0]
    assert data.name == "N-MNIST (unverified copy: Train.zip)"
    find._told.clear()
    monkeypatch.setitem(nmnist.DOWNLOADS, "train", ("", md5(nmnist_zip)))
    assert told(make)[0] == [] and make().name == "N-MNIST"
    nmnist.convert_nmnist(nmnist_zip, nmnist_zip.parent / "nmnist_train.h5")
    assert told(make)[0] == []
    monkeypatch.setitem(nmnist.OFFICIAL, "train", 5)
    assert told(make)[0] == []
    with h5py.File(nmnist_zip.parent / "nmnist_train.h5", "a") as file:
        del file.attrs["nsim_fingerprint"]  # as the files of the paper's authors are
    (said,), data = told(make)
    assert "nmnist_train.h5: it has no checksum" in said and data.name.startswith("N-MNIST subset (4 of 5 ")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("wrong", ["images-idx3", "labels-idx1"])
def test_pictures_and_labels_of_another_content(idx_files, monkeypatch, wrong, packed):
    folder = idx_files[0]
    for path in [] if packed else list(folder.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    monkeypatch.setitem(images.PARTS, "train", ("train", 8))
    published = {path.name: md5(path) for path in folder.iterdir()}
    monkeypatch.setattr(FashionMNIST, "md5", FashionMNIST.md5 | published)
    assert told(lambda: FashionMNIST("train", folder))[0] == []
    name = f"train-{wrong}-ubyte{'.gz' if packed else ''}"
    monkeypatch.setitem(FashionMNIST.md5, name, "0" * 32)
    said, data = told(lambda: FashionMNIST("train", folder))
    assert len(said) == 1 and f"{folder / name}: its content" in said[0]
    assert data.name == f"Fashion-MNIST (unverified copy: {name})"


def test_a_folder_that_may_not_be_entered_is_one_without_the_file(tmp_path, monkeypatch):
    real = Path.is_file

    def refused(path):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_file", refused)
    monkeypatch.setenv("NSIM_DATA", str(tmp_path / "locked"))
    with pytest.raises(MissingDataError, match="was not found"):
        SHD("train")

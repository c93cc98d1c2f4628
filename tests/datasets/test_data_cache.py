"""The memory-mapped cache: found again, never half-written, safe against full disks and other processes."""

import builtins
import errno
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from nsim.datasets import SHD, cache, write_shd
from nsim.datasets.archives import enough_space
from nsim.errors import DataError
from nsim.files import atomic


def arrays(k=5):
    return {
        "times": np.arange(k, dtype=np.int32),
        "units": np.arange(k, dtype=np.uint16),
        "starts": np.array([0, 2, k]),
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def left_over(folder):
    return [p.name for p in folder.rglob("*.tmp")]


def test_built_once_and_memory_mapped(own_cache):
    built = []
    for _ in range(2):
        found = cache.arrays("entry", lambda: built.append(1) or arrays())
        assert same(found, arrays()) and isinstance(found["times"], np.memmap) and not found["times"].flags.writeable
    assert built == [1] and not left_over(own_cache)
    assert same(cache.arrays("entry", arrays, cache=False), arrays())


def test_key_depends_on_content_and_parameters():
    names = {cache.key("a", 1), cache.key("a", 2), cache.key("b", 1), cache.key("a", 1.0), cache.key("a1")}
    assert len(names) == 5


@pytest.mark.parametrize("damage", ["truncate", "remove", "table", "starts"])
def test_a_damaged_entry_is_made_anew(own_cache, damage):
    cache.arrays("entry", arrays)
    entry = own_cache / "events" / "entry"
    if damage == "truncate":
        (entry / "times.npy").write_bytes((entry / "times.npy").read_bytes()[:-3])
    elif damage == "remove":
        (entry / "units.npy").unlink()
    elif damage == "table":
        (entry / "table.json").write_text("{")
    else:
        np.save(entry / "starts.npy", np.array([0, 9, 5]))
    assert same(cache.arrays("entry", arrays), arrays())
    assert same(cache.arrays("entry", lambda: pytest.fail("made twice")), arrays()) and not left_over(own_cache)


def full_disk(monkeypatch, suffix):
    """Writing to files whose name ends so fails as on a full disk."""
    opened = builtins.open

    def fails(path, mode="r", *args, **kwargs):
        if str(path).endswith(suffix) and ("w" in mode or "x" in mode):
            return opened("/dev/full", "wb", buffering=0)
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", fails)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full to act as a full disk")
def test_full_disk(own_cache, monkeypatch):
    full_disk(monkeypatch, "units.npy")
    with pytest.raises(DataError, match=r"disk is full: 54 bytes are needed in .*cache.*NSIM_CACHE") as caught:
        cache.arrays("entry", arrays)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC
    assert not list((own_cache / "events").iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full to act as a full disk")
def test_full_disk_while_unpacking(own_cache, shd_archives, monkeypatch):
    full_disk(monkeypatch, "unpacked.h5")
    for path in shd_archives:
        (path.parent / "shd_train.h5").unlink(missing_ok=True)
        with pytest.raises(DataError, match=r"disk is full: [\d,]+ bytes are needed"):
            SHD("train", path.parent)
        path.unlink()
    assert not list(own_cache.glob("nsim-unpack-*"))


def test_a_full_disk_in_the_words_of_the_hdf5_library(tmp_path):
    with pytest.raises(DataError, match="disk is full"), enough_space(tmp_path, 10), atomic(tmp_path / "a") as partial:
        partial.write_text("half")
        raise OSError("Unable to write (file write failed: error message = 'No space left on device')")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NSIM_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be written.*stay in memory.*NSIM_CACHE"):
        found = cache.arrays("entry", arrays)
    assert same(found, arrays())


def test_digest_is_remembered_but_not_for_a_changed_file(own_cache, tmp_path, monkeypatch):
    path = tmp_path / "data"
    path.write_bytes(b"one")
    first = cache.file_digests(path)
    assert not (own_cache / "digests").exists()  # too young: a change within the clock's grain would not show
    os.utime(path, (1e9, 1e9))
    cache.file_digests(path)
    assert not (own_cache / "digests").exists()  # an old time of change, but put there just now
    monkeypatch.setattr(cache, "SETTLED", -1.0)
    assert cache.file_digests(path) == first and len(list((own_cache / "digests").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(cache, "digests", lambda path: pytest.fail("hashed again"))
        assert cache.file_digests(path) == first
    path.write_bytes(b"two")
    os.utime(path, (1e9 + 1, 1e9 + 1))
    assert cache.file_digests(path) != first
    memo = next((own_cache / "digests").iterdir())
    for text in ("{", "[]", json.dumps({"file": 1})):
        memo.write_text(text)
        assert cache.file_digests(path) != first


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_of_another_content_but_the_same_size_and_time(own_cache, tmp_path, monkeypatch, replaced):
    """As cp -p (into the same file) and rsync (a new file under the old name) leave it."""
    monkeypatch.setattr(cache, "SETTLED", -1.0)
    path = tmp_path / "data"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    first, before = cache.file_digests(path), path.stat().st_ctime_ns
    target = tmp_path / "other" if replaced else path
    target.write_bytes(b"two")
    os.utime(target, ns=(10**18, 10**18))
    while target.stat().st_ctime_ns == before:  # until the file system's clock goes on
        os.utime(target, ns=(10**18, 10**18))
    target.replace(path)
    assert path.stat().st_size == 3 and path.stat().st_mtime_ns == 10**18
    assert cache.file_digests(path) != first


def test_changed_content_is_read_anew(shd_file, small):
    assert SHD("train", shd_file.parent).labels.tolist() == list(small.labels)
    write_shd(shd_file, small.times, small.units, [1, 2, 3], speakers=small.speakers)
    assert SHD("train", shd_file.parent).labels.tolist() == [1, 2, 3]


def test_threads_that_build_the_same_entry(own_cache):
    barrier, found = threading.Barrier(4), []

    def build():
        barrier.wait()
        return arrays(5000)

    workers = [threading.Thread(target=lambda: found.append(cache.arrays("entry", build))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4 and all(same(a, arrays(5000)) for a in found) and not left_over(own_cache)


def test_a_process_killed_while_writing_leaves_no_entry(own_cache):
    script = (
        "import os, numpy as np\nfrom nsim.datasets import cache\n"
        "save = cache._save\n"
        "def killed(path, a):\n    save(path, a)\n    if path.name == 'units.npy': os._exit(9)\n"
        "cache._save = killed\n"
        "cache.arrays('entry', lambda: {k: np.arange(3) for k in ('times', 'units', 'starts')})\n"
    )
    code = subprocess.run([sys.executable, "-c", script], env={**os.environ, "NSIM_CACHE": str(own_cache)}).returncode
    assert code == 9 and len(left_over(own_cache)) == 1 and not (own_cache / "events" / "entry").exists()
    partial = next((own_cache / "events").glob("*.tmp"))
    assert same(cache.arrays("entry", arrays), arrays()) and partial.exists()  # may belong to a living process
    os.utime(partial, (1e9, 1e9))
    cache.arrays("other", arrays)
    assert not left_over(own_cache)

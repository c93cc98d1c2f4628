"""The SHD format: round trips, checks, and the child process that reads it."""

import gzip
import io
import shutil
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from nsim import hdf5
from nsim.datasets import read_recordings, write_shd
from nsim.errors import DataError
from nsim.hdf5 import Reader


def read(path, **changed):
    return read_recordings(path, **{"n": 700, "classes": 20} | changed)[0]


def test_round_trip(shd_file, shd_archives, small):
    for path in (shd_file, *shd_archives):
        a = read(path)
        np.testing.assert_array_equal(a["starts"], [0, 4, 4, 24])
        np.testing.assert_array_equal(a["labels"], small.labels)
        np.testing.assert_array_equal(a["speakers"], small.speakers)
        for k, (times, units) in enumerate(zip(small.times, small.units, strict=True)):
            order = np.lexsort((units, times))
            part = slice(a["starts"][k], a["starts"][k + 1])
            np.testing.assert_array_equal(a["units"][part], np.asarray(units)[order])
            expected = np.rint(np.asarray(times, np.float16).astype(np.float64) * 1e6)[order]
            np.testing.assert_array_equal(a["times"][part], expected)
        assert a["times"].dtype == np.int32 and a["units"].dtype == np.uint16


def test_float16_is_widened_before_scaling(tmp_path):
    """1.3 s are 1,300,000 microseconds, twenty times what a float16 can hold."""
    write_shd(tmp_path / "a.h5", [[1.3, 0.2]], [[1, 2]], [0])
    np.testing.assert_array_equal(read(tmp_path / "a.h5")["times"], np.rint(np.float64(np.float16([0.2, 1.3])) * 1e6))


def test_names_and_float32(tmp_path):
    write_shd(tmp_path / "a.h5", [[0.123456]], [[5]], [1], names=["yes", "no"], dtype=np.float32)
    arrays, names = read_recordings(tmp_path / "a.h5", n=6, classes=2)
    assert names == ["yes", "no"] and arrays["times"][0] == 123456 and "speakers" not in arrays


def test_whole_numbers_may_be_floats(tmp_path):
    write_shd(tmp_path / "a.h5", [[0.5], []], [[5.0], []], [1.0, 0.0])
    a = read(tmp_path / "a.h5")
    assert a["units"].tolist() == [5] and a["labels"].tolist() == [1, 0]


def foreign(path, **changed):
    """A file with one dataset replaced (or left out, where the value is None), without a fingerprint."""
    times = [np.array([0.1, 0.2], np.float16), np.array([0.3], np.float16)]
    data = {"spikes/times": times, "spikes/units": [np.array([1, 2]), np.array([3])], "labels": np.array([0, 1])}
    with h5py.File(path, "w") as file:
        for key, value in (data | changed).items():
            if isinstance(value, list):
                column = file.create_dataset(key, (len(value),), dtype=h5py.vlen_dtype(value[0].dtype))
                for k, record in enumerate(value):
                    column[k] = record
            elif value is not None:
                file[key] = value
    return path


@pytest.mark.parametrize(
    "change, words",
    [
        ({"labels": None}, "no dataset 'labels'"),
        ({"spikes/units": None}, "no dataset 'spikes/units'"),
        ({"labels": np.array([0])}, "2 records of times, 2 of units, 1 labels"),
        ({"labels": np.array([0, 20])}, "sample 1 has label 20; expected 0 to 19"),
        ({"labels": np.array([0, -1])}, "sample 1 has label -1"),
        ({"labels": np.array([0.5, 1.0])}, "'labels' has shape .* type float64; expected one of whole numbers"),
        ({"spikes/units": [np.array([1, 2]), np.array([700])]}, "sample 1 has an event of unit 700; expected 0 to 699"),
        ({"spikes/units": [np.array([-1, 2]), np.array([7])]}, "sample 0 has an event of unit -1"),
        ({"spikes/units": [np.array([1]), np.array([7])]}, "sample 0 has 2 times and 1 units"),
        ({"spikes/times": [np.array([0.1, np.nan]), np.array([0.1])]}, "sample 0 has an event at nan s"),
        ({"spikes/times": [np.array([0.1, 0.2]), np.array([-0.1])]}, "sample 1 has an event at -0.1 s"),
        ({"spikes/times": [np.array([1, 2]), np.array([3])]}, "'spikes/times' has shape"),
        ({"spikes/times": np.zeros((2, 3))}, "'spikes/times' has shape"),
        ({"extra/speaker": np.array([1])}, "1 speakers for 2 samples"),
    ],
)
def test_foreign_files(tmp_path, change, words):
    with pytest.raises(DataError, match=words) as caught:
        read(foreign(tmp_path / "a.h5", **change))
    assert "a.h5" in str(caught.value)


def test_unsorted_foreign_times_are_sorted(tmp_path):
    a = read(foreign(tmp_path / "a.h5", **{"spikes/times": [np.array([0.2, 0.1]), np.array([0.1])]}))
    assert a["times"].tolist() == [100_000, 200_000, 100_000] and a["units"].tolist() == [2, 1, 3]


def test_truncated_and_other_files(shd_file, tmp_path):
    for missing in (tmp_path / "missing.h5", tmp_path):
        with pytest.raises(DataError, match=f"{missing}: no such file"):
            read(missing)
    for name, content in (
        ("short.h5", shd_file.read_bytes()[:3000]),
        ("empty.h5", b""),
        ("text.h5", b"not a spike\n" * 100),
        ("short.h5.gz", gzip.compress(shd_file.read_bytes())[:-20]),
        ("plain.h5.gz", shd_file.read_bytes()),
        ("empty.h5.gz", b""),
        ("plain.h5.zip", shd_file.read_bytes()),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


def test_zip_must_hold_one_h5(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "x")
    (tmp_path / "a.h5.zip").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"holds 0 \.h5 files, expected one"):
        read(tmp_path / "a.h5.zip")


def test_fingerprint_sees_a_changed_value(shd_file):
    with h5py.File(shd_file, "a") as file:
        file["labels"][0] = 5
    with pytest.raises(DataError, match="fingerprint"):
        read(shd_file)


@pytest.mark.parametrize(
    "script, seconds, words", [("import os; os.abort()", 60, "crashed"), ("input(); input()", 1, "more than 1 s")]
)
def test_a_crash_or_a_hang_of_the_library_is_an_error(shd_file, tmp_path, monkeypatch, script, seconds, words):
    child = tmp_path / "child.py"
    child.write_text(script)
    with Reader(seconds=seconds) as reader:
        with monkeypatch.context() as patch:
            patch.setattr(hdf5, "CHILD", child)
            with pytest.raises(DataError, match=words):
                read(shd_file, reader=reader)
        reader.seconds = 60  # to start Python takes more than one where the machine is busy
        assert len(read(shd_file, reader=reader)["labels"]) == 3  # a new child takes over


@pytest.mark.parametrize(
    "arguments, words",
    [
        (([[0.1]], [[700]], [0]), "unit 700; expected 0 to 699"),
        (([[0.1]], [[1, 2]], [0]), "1 times and 2 units"),
        (([[-0.1]], [[1]], [0]), "at -0.1 s"),
        (
            ([[0.1], [2e5, 3e5]], [[1], [1, 2]], [0, 1]),
            r"sample 1 has an event at 200000.0 s; times are seconds \(of mic",
        ),
        (([[np.nan]], [[1]], [0]), "at nan s; times are seconds"),
        (([[0.1, 0.2], [0.3]], [[1.5, 2], [3]], [0, 1]), "sample 0 has an event of unit 1.5; expected 0 to 699, whole"),
        (([[0.1], [0.3]], [[1], [3]], [0, 1.7]), "sample 1 has label 1.7; .* whole numbers"),
        (([[0.1]], [[1]], ["yes"]), "labels such as 'yes'; expected whole numbers"),
        (([0.1, 0.2], [1, 2], [0, 1]), r"times of sample 0 have shape \(\) .*one array for each sample"),
        (([["a"]], [[1]], [0]), "times of sample 0 have .* type <U1"),
        (([[0.1]], [[1]], [0, 1]), "1 times, 1 units, 2 labels"),
        (([], [], []), "0 times"),
        (([[0.1]], [[1]], [70_000]), "sample 0 has label 70000; expected 0 to 65,535"),
    ],
)
def test_writing_checks_and_leaves_nothing(tmp_path, arguments, words):
    with pytest.raises(DataError, match=words):
        write_shd(tmp_path / "a.h5", *arguments)
    with pytest.raises(DataError, match="sample 0 has speaker -1; expected 0 to 65,535"):
        write_shd(tmp_path / "a.h5", [[0.1]], [[1]], [0], speakers=[-1])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_no_crash(tmp_path):
    """On a real file system of 64 kB, which a child process mounts for itself."""
    script = (
        "import numpy as np\nfrom nsim.datasets import write_shd\n"
        f"try: write_shd('{tmp_path}/a.h5', [np.zeros(20)] * 2000, [np.zeros(20, int)] * 2000, np.zeros(2000))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    own = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c", own, "-"]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this system lets no user mount a file system of their own")
    child = subprocess.run([*mount, sys.executable, "-c", script], capture_output=True, text=True)
    assert child.returncode == 0, child
    assert child.stdout.startswith("DataError the disk is full: ") and f"needed in {tmp_path} (" in child.stdout

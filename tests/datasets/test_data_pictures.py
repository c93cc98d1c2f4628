"""Data sets of pictures: CIFAR files written by hand, folders of PNG and JPEG, batches against the formula."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsim.datasets import (
    CIFAR10,
    CIFAR100,
    IMAGENET,
    FashionMNIST,
    Flip,
    ImageData,
    ImageFolder,
    Normalize,
    Shift,
    cifar,
)  # fmt: skip
from nsim.datasets.folder import read_picture
from nsim.errors import DataError, EventWarning, ParameterError, ShapeError

ROOT = Path(os.environ.get("NSIM_DATA") or "nowhere")


def rows(count, label_bytes=1, seed=0, classes=10):
    """Labels, pixels [count, 3, 32, 32], and the bytes of a file of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (count, label_bytes)).astype(np.uint8)
    images = rng.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
    return labels[:, -1], images, np.hstack([labels, images.reshape(count, -1)]).tobytes()


def archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            tar.addfile(item, io.BytesIO(content))
    return path


def five_batches():
    return {f"cifar-10-batches-bin/data_batch_{k}.bin": rows(k, seed=k)[2] for k in range(1, 6)}


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
def test_archive_and_unpacked_files_are_the_same_pictures(tmp_path):
    files = five_batches() | {"cifar-10-batches-bin/test_batch.bin": rows(7, seed=9)[2]}
    archive(tmp_path / "packed" / "cifar-10-binary.tar.gz", files)
    folder = tmp_path / "unpacked" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)
    for root in (tmp_path / "packed", tmp_path / "unpacked"):
        for again in range(2):  # from the file, then from the cache
            train, test = CIFAR10("train", root), CIFAR10("test", root, cache=bool(again))
            assert len(train) == 15 and train.name == "CIFAR-10 subset (15 of 50,000 train images)"
            np.testing.assert_array_equal(train.labels, np.concatenate([rows(k, seed=k)[0] for k in range(1, 6)]))
            np.testing.assert_array_equal(train.images, np.concatenate([rows(k, seed=k)[1] for k in range(1, 6)]))
            np.testing.assert_array_equal(test.images, rows(7, seed=9)[1])
    assert test.classes[3] == "cat" and test.n_classes == 10 and test.shape == (3, 32, 32)


def test_only_the_published_archive_is_called_cifar(tmp_path, monkeypatch):
    path = archive(tmp_path / "cifar-10-binary.tar.gz", {"b/test_batch.bin": rows(4)[2]})
    monkeypatch.setattr(CIFAR10, "md5", hashlib.md5(path.read_bytes()).hexdigest())
    assert CIFAR10("test", tmp_path).name == "CIFAR-10"


def test_an_archive_of_other_content_cannot_be_verified(tmp_path, monkeypatch):
    archive(tmp_path / "cifar-10-binary.tar.gz", {"b/test_batch.bin": rows(4)[2]})
    monkeypatch.setitem(cifar.COUNTS, "test", 4)
    with pytest.warns(EventWarning, match="cifar-10-binary.tar.gz: its content .* cannot be verified"):
        assert CIFAR10("test", tmp_path).name == "CIFAR-10 (unverified copy: cifar-10-binary.tar.gz)"


def test_unpacked_files_are_not_called_other_than_the_published(tmp_path, monkeypatch):
    (tmp_path / "test_batch.bin").write_bytes(rows(4)[2])
    monkeypatch.setitem(cifar.COUNTS, "test", 4)
    with pytest.warns(EventWarning, match="test_batch.bin: .* an archive's vouches for nothing unpacked") as said:
        assert CIFAR10("test", tmp_path).name == "CIFAR-10 (unverified copy: test_batch.bin)"
    assert len(said) == 1 and "is not that of" not in str(said[0].message)


def test_cifar100_has_the_fine_labels(tmp_path):
    labels, images, content = rows(6, label_bytes=2, seed=2, classes=100)
    archive(tmp_path / "cifar-100-binary.tar.gz", {"cifar-100-binary/test.bin": content})
    data = CIFAR100("test", tmp_path)
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.images, images)
    assert data.n_classes == 100 == len(set(data.classes)) and list(data.classes) == sorted(data.classes)


def test_a_subset_is_taken_where_the_whole_is_not_there(tmp_path):
    (tmp_path / "cifar10-subset").mkdir()
    (tmp_path / "cifar10-subset" / "test_500.bin").write_bytes(rows(5)[2])
    with pytest.warns(EventWarning, match="test_500.bin: it has no checksum"):
        assert CIFAR10("test", tmp_path).name == "CIFAR-10 subset (5 of 10,000 test images)"
    archive(tmp_path / "CIFAR10" / "cifar-10-binary.tar.gz", {"b/test_batch.bin": rows(4)[2]})
    assert len(CIFAR10("test", tmp_path)) == 4


def test_files_that_are_not_right(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    target = folder / "test_batch.bin"
    for content, words in (
        (b"", "0 bytes are no whole number of rows of 3073"),
        (rows(2)[2][:-1], "6145 bytes are no whole"),
        (rows(3, classes=1)[2][:3073] + b"\x0b" + bytes(3072), "sample 1 has label 11"),
    ):
        target.write_bytes(content)
        with pytest.raises(DataError, match=words):
            CIFAR10("test", folder)
    (folder / "data_batch_1.bin").write_bytes(rows(2)[2])
    with pytest.raises(DataError, match=r"lacks data_batch_2.bin, data_batch_3.bin"):
        CIFAR10("train", folder)
    packed = archive(tmp_path / "b" / "cifar-10-binary.tar.gz", {"x/other.bin": b"1"})
    with pytest.raises(DataError, match=r"holds \['other.bin'\], not test_batch.bin"):
        CIFAR10("test", tmp_path / "b")
    whole = archive(packed, {"x/test_batch.bin": rows(50)[2]}).read_bytes()
    for content in (whole[: len(whole) // 2], b"junk", whole[:200] + b"0" * 40 + whole[240:]):
        packed.write_bytes(content)
        with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz: (damaged|cannot be read)"):
            CIFAR10("test", tmp_path / "b")
    with pytest.raises(ParameterError, match="split = 'val'"):
        CIFAR10("val")
    packed.write_bytes(whole)
    monkeypatch.setattr(cifar, "LARGEST", 1000)
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        CIFAR10("test", tmp_path / "b")
    with pytest.raises(DataError, match=r"(?s)CIFAR-100 \(train\) was not found.*cs.toronto.edu.*ImageFolder"):
        CIFAR100("train")


def test_normalize_is_the_formula():
    images = np.random.default_rng(1).integers(0, 256, (3, 3, 4, 5)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (images / 255 - mean[:, None, None]) / std[:, None, None]
    found = IMAGENET(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-7)
    for wrong in (images[:, :2], images / 255, images[0]):
        with pytest.raises(ShapeError, match=r"expected uint8 \[batch, 3"):
            IMAGENET(wrong)
    for mean, std in (((0.5,), (0.0,)), ((0.5, 0.5), (1.0,)), ((np.nan,), (1.0,)), ((), ())):
        with pytest.raises(ParameterError, match="Normalize"):
            Normalize(mean, std)


def made(count=23, shape=(1, 4, 4), normalize=None):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    normalize = Normalize((0.0,), (1.0,)) if normalize is None else normalize
    return ImageData(images, np.arange(count) % 3, name="made", classes="abc", normalize=normalize)


def test_batches_are_the_pictures_in_order():
    data = made()
    batches = data.batches(10)
    found = list(batches)
    assert len(batches) == 3 == len(found) and len(data.batches(10, drop_last=True)) == 2
    np.testing.assert_allclose(np.concatenate([x for x, _ in found]), data.images / 255, atol=1e-7)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), data.labels)
    part = data.subset([5, 2])
    ((x, y),) = part.batches(2, normalize=lambda images: images)
    np.testing.assert_array_equal(x, data.images[[5, 2]])
    np.testing.assert_array_equal(y, data.labels[[5, 2]])
    rest, held = data.split(0.25, seed=1)
    assert len(rest) + len(held) == 23 and not set(rest.index) & set(held.index)


def test_seed_and_epoch_fix_the_bits():
    data = made(shape=(2, 6, 6), normalize=Normalize((0.0, 0.0), (1.0, 1.0)))

    def run(**options):
        return [x for x, _ in data.batches(8, **({"shuffle": True, "transform": [Shift(2), Flip()]} | options))]

    def same(a, b):
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    assert same(run(seed=3, epoch=1), run(seed=3, epoch=1))
    assert not same(run(seed=3, epoch=1), run(seed=3, epoch=2)) and not same(run(seed=3), run(seed=4))
    assert not same(run(shuffle=False, transform=Flip()), run(shuffle=False, transform=None))


def test_flip_and_shift_move_whole_pictures():
    images, rng = made(200, (3, 5, 7)).images, np.random.default_rng(2)
    flipped = Flip()(images, rng)
    mirrored = np.array([np.array_equal(a, b[..., ::-1]) for a, b in zip(flipped, images, strict=True)])
    assert 60 < mirrored.sum() < 140
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])
    shifted, seen = Shift(1)(images, rng), set()
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for k in range(200):
        place = [
            (i, j) for i in range(3) for j in range(3) if np.array_equal(shifted[k], wide[k, :, i : i + 5, j : j + 7])
        ]
        assert len(place) == 1
        seen.add(place[0])
    assert len(seen) == 9
    np.testing.assert_array_equal(Shift(0)(images, rng), images)
    for most in (-1, 1.5, "a", None):
        with pytest.raises(ParameterError, match=f"Shift: most = {most!r}: expected a whole number of at least 0"):
            Shift(most)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"batch": 0}, "batch = 0"),
        ({"batch": 30, "drop_last": True}, "only 23"),
        ({"transform": 3}, "batches: transform = 3: expected a function, a list of them, or None"),
        ({"transform": [Flip(), "shift"]}, "batches: transform = .*'shift'"),
        ({"transform": Flip}, r"transform is the class Flip; make one: Flip\(...\)"),
    ],
)
def test_impossible_batches(options, words):
    with pytest.raises(ParameterError, match=words):
        made().batches(**{"batch": 2} | options)
    with pytest.raises(ParameterError, match="no sample of made is left"):
        made().subset(np.zeros(0, int)).batches(2)


def test_pictures_and_labels_must_fit():
    for images in (np.zeros((2, 3, 4, 4)), np.zeros((3, 1, 4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8)):
        with pytest.raises(ShapeError, match=r"expected uint8 \[S, C, H, W\]"):
            ImageData(images, [0, 1], name="wrong", classes="ab", normalize=IMAGENET)


def test_fashion_mnist_as_pictures(idx_files):
    folder, images, labels = idx_files
    data = FashionMNIST("train", folder).subset([2, 0]).pictures()
    ((x, y),) = data.batches(2)
    assert x.shape == (2, 1, 28, 28) and data.classes == FashionMNIST.names and "subset" in data.name
    np.testing.assert_allclose(x[:, 0], images[[2, 0]] / 255, atol=1e-7)
    np.testing.assert_array_equal(y, labels[[2, 0]])


def picture(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes, pictures of several kinds and sizes, and files that are none of ours."""
    rng = np.random.default_rng(3)
    root = tmp_path / "pictures"
    picture(root / "zebra" / "1.png", rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    picture(root / "ant" / "b.JPEG", rng.integers(0, 256, (16, 16, 3)).astype(np.uint8), format="JPEG")
    picture(root / "ant" / "deep" / "a.png", rng.integers(0, 256, (9, 40)).astype(np.uint8))
    (root / "ant" / "notes.txt").write_text("not a picture")
    picture(root / "ant" / ".hidden.png", np.zeros((4, 4), np.uint8))
    (root / ".cache").mkdir()
    return root


def test_folders_are_classes(folder):
    data = ImageFolder(folder, size=8, resize=10)
    assert data.classes == ("ant", "zebra") and data.labels.tolist() == [0, 0, 1] and data.shape == (3, 8, 8)
    assert [path.name for path in data.files] == ["b.JPEG", "a.png", "1.png"] and data.name == "pictures"
    images = data.images
    for k, path in enumerate(data.files):
        np.testing.assert_array_equal(images[k].transpose(1, 2, 0), read_picture(path, 8, 10))
    assert (images[1] == images[1, :1]).all(), "grey values in all three channels"
    ((x, y),) = data.subset([2, 1]).batches(2)
    np.testing.assert_array_equal(x, IMAGENET(images[[2, 1]]))
    np.testing.assert_array_equal(y, [1, 0])
    assert ImageFolder(folder, classes=["zebra", "ant"], size=8).labels.tolist() == [0, 1, 1]
    assert ImageFolder(folder).images.shape == (3, 3, 224, 224)


def test_the_middle_is_cut_out_and_the_shorter_side_scaled(tmp_path):
    """Without scaling the pixels are those of the file; with it, a ramp stays a ramp."""
    pixels = np.arange(7 * 10 * 3).reshape(7, 10, 3).astype(np.uint8)
    picture(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", 5, 7), pixels[1:6, 2:7])
    ramp = np.broadcast_to((np.arange(40) * 4)[:, None, None], (40, 60, 3)).astype(np.uint8)
    picture(tmp_path / "b.png", ramp)
    small = read_picture(tmp_path / "b.png", 16, 20)
    assert small.shape == (16, 16, 3) and (small == small[:, :1]).all()
    np.testing.assert_allclose(np.diff(small[:, 0, 0].astype(int)), 8, atol=1)
    np.testing.assert_allclose(small[7:9, 0, 0].mean(), ramp[19:21, 0, 0].mean(), atol=1)


def test_folders_that_are_not_right(tmp_path, folder):
    for root, words in ((tmp_path / "nowhere", "no such folder"), (folder / "zebra", "has no folders")):
        with pytest.raises(DataError, match=words):
            ImageFolder(root)
    with pytest.raises(DataError, match=r"classes without a folder of their own: \['cat'\]"):
        ImageFolder(folder, classes=["cat", "ant"])
    for options in ({"size": 0}, {"size": 9, "resize": 8}, {"size": 2.5}, {"size": "a"}):
        with pytest.raises(ParameterError, match="size = "):
            ImageFolder(folder, **options)
    for name, content in (("cut.png", (folder / "zebra" / "1.png").read_bytes()[:200]), ("no.jpg", b"not a picture")):
        (folder / "zebra" / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: damaged or no picture"):
            list(ImageFolder(folder, size=8).batches(4))
        (folder / "zebra" / name).unlink()
    picture(folder / "zebra" / "deep.png", np.full((9, 9), 40_000, np.uint16))
    with pytest.raises(DataError, match="expected a picture of 8 bits"):
        list(ImageFolder(folder, size=8).batches(4))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no picture"):
        ImageFolder(folder)


@pytest.mark.filterwarnings("ignore::nsim.errors.EventWarning")
@pytest.mark.skipif(not (ROOT / "cifar10-subset").is_dir(), reason="needs NSIM_DATA with cifar10-subset")
def test_cifar10_subset():
    for split, count, total in (("train", "5,085", "50,000"), ("test", "500", "10,000")):
        data = CIFAR10(split, ROOT)
        assert data.name == f"CIFAR-10 subset ({count} of {total} {split} images)"
        images, _ = next(iter(data.batches(500)))
        assert np.bincount(data.labels).min() >= 0.08 * len(data)
        np.testing.assert_allclose(images.mean(), 0.1, atol=0.1)
        frogs, ships = (data.images[data.labels == k].mean(axis=(0, 2, 3)) for k in (6, 8))
        assert ships[2] > ships[1] > ships[0] and frogs[2] < frogs[1], "channels are red, green, blue"

"""CIFAR-10 and CIFAR-100: pictures of 32 x 32, from the official binary archives."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import ClassVar

import numpy as np

from nsim.checks import class_labels, one_of
from nsim.datasets import cache as store
from nsim.datasets.archives import damaged
from nsim.datasets.find import Source, find, named, subset
from nsim.datasets.pictures import IMAGENET, ImageData
from nsim.errors import DataError

PIXELS = 3 * 32 * 32
LARGEST = 1 << 28  # bytes that an archive may unpack to; the official ones have 185 million
COUNTS = {"train": 50_000, "test": 10_000}
TORONTO = "https://www.cs.toronto.edu/~kriz/"
# In the order of the labels, which in CIFAR-100 is that of the alphabet.
NAMES10 = "airplane automobile bird cat deer dog frog horse ship truck"
NAMES100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


class CIFAR10(ImageData):
    """CIFAR-10: 60,000 colour pictures of 32 x 32 in 10 classes.

    Parameters
    ----------
    split : "train" or "test"
    root : path, optional
        Folder of cifar-10-binary.tar.gz, or of the .bin files in it. Default: $NSIM_DATA, the cache, or a download. A
        part of the pictures in the same format (train_5085.bin, test_500.bin) is taken where the whole is not there.
    normalize : function uint8 [B, 3, 32, 32] -> float32
        Default: the mean and standard deviation of ImageNet, with which many networks for CIFAR were trained.
    download, cache : bool
        See `SHD`.

    `name` says when there are fewer pictures than the official 50,000 and 10,000, and when they cannot be verified; an
    EventWarning names each file in which damage would not be seen.

    Raises
    ------
    DataError
        If no file can be had, or it is damaged or foreign.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; "binary version" of the files.
    """

    title, archive, md5 = "CIFAR-10", "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
    folders = ("CIFAR10", "cifar10", "cifar-10-batches-bin", "CIFAR10/cifar-10-batches-bin", "cifar10-subset")
    parts: ClassVar[dict] = {
        "train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
        "test": ("test_batch.bin",),
    }
    subsets: ClassVar[dict] = {"train": ("train_5085.bin",), "test": ("test_500.bin",)}
    label_bytes, names = 1, tuple(NAMES10.split())

    def __init__(self, split="train", root=None, *, normalize=IMAGENET, download=True, cache=True):
        one_of(self.title, "split", split, COUNTS)
        source = Source(
            what=f"{self.title} ({split})",
            names=(self.archive, self.parts[split][0], *self.subsets.get(split, ())),
            folders=self.folders,
            downloads=((self.archive, TORONTO + self.archive, self.md5),),
            instead="nsim.datasets.ImageFolder reads pictures of your own",
        )
        path = find(source, root, download)
        files = [path.with_name(name) for name in self.parts[split]] if path.name in self.parts[split] else [path]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise DataError(
                f"{self.title} ({split}): {path.parent} lacks {', '.join(missing)}; unpack all of the archive"
            )
        digests = {file: store.file_digests(file, cache) for file in files}
        key = store.key("cifar", self.title, split, *(fast for fast, _ in digests.values()))
        arrays = store.arrays(key, lambda: self._read(files, split), cache)
        part = subset(len(arrays["labels"]), COUNTS[split], f"{split} images")
        name = named(self.title, digests, {self.archive: self.md5}, part=part)
        images = arrays["images"].reshape(-1, 3, 32, 32)
        super().__init__(images, arrays["labels"], name=name, classes=self.names, normalize=normalize)
        self.path = path

    def _read(self, files, split):
        if files[0].name != self.archive:
            return _joined([self._rows(file.read_bytes(), file) for file in files])
        with damaged(files[0], "a .tar.gz of CIFAR"), gzip.open(files[0]) as stream:
            content = stream.read(LARGEST + 1)  # to its end, where the checksum is
            if len(content) > LARGEST:
                raise DataError(f"{files[0]}: unpacks to more than {LARGEST:,} bytes: not an archive of CIFAR")
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                found = {item.name.rpartition("/")[2]: item for item in archive if item.isfile()}
                missing = [name for name in self.parts[split] if name not in found]
                if missing:
                    raise DataError(f"{files[0]}: holds {sorted(found)[:8]}, not {', '.join(missing)}")
                contents = [(name, archive.extractfile(found[name]).read()) for name in self.parts[split]]
        return _joined([self._rows(content, f"{files[0]}: {name}") for name, content in contents])

    def _rows(self, content, where):
        """Labels and pixels of rows of label bytes, the last of which counts, and 3,072 pixels, channel by channel."""
        size = self.label_bytes + PIXELS
        if len(content) == 0 or len(content) % size:
            raise DataError(f"{where}: {len(content)} bytes are no whole number of rows of {size} bytes; fetch it anew")
        rows = np.frombuffer(content, np.uint8).reshape(-1, size)
        labels = class_labels(where, rows[:, self.label_bytes - 1], len(self.names), error=DataError)
        return labels, rows[:, self.label_bytes :]


class CIFAR100(CIFAR10):
    """CIFAR-100: 60,000 colour pictures of 32 x 32 in 100 ("fine") classes; see `CIFAR10`."""

    title, archive, md5 = "CIFAR-100", "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
    folders = ("CIFAR100", "cifar100", "cifar-100-binary", "CIFAR100/cifar-100-binary")
    parts: ClassVar[dict] = {"train": ("train.bin",), "test": ("test.bin",)}
    subsets: ClassVar[dict] = {}
    label_bytes, names = 2, tuple(NAMES100.split())


def _joined(parts):
    labels, images = zip(*parts, strict=True)
    return {"labels": np.concatenate(labels), "images": np.concatenate(images)}

"""Pictures in folders, a folder for each class, as ImageNet has them; read when a batch asks for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from nsim.checks import is_whole
from nsim.datasets.pictures import IMAGENET, ImageData
from nsim.errors import DataError, ParameterError
from nsim.kernels import threads

SUFFIXES = (".jpg", ".jpeg", ".png")


class ImageFolder(ImageData):
    """Pictures root/<class>/<picture>, .png or .jpeg: scaled, the middle cut out, normalised.

    A class is named as its folder; labels count the folders in the order of their names. Pictures may lie deeper in a
    class' folder. Files of other kinds and hidden ones are left alone.

    Parameters
    ----------
    root : path
    size : int, pixels
        Side of the square that is cut out of the middle.
    resize : int, pixels
        The shorter side is scaled to this before (bilinear, smoothed where it shrinks). Default: size * 256 / 224.
    normalize : function uint8 [B, 3, size, size] -> float32
        Default: ImageNet's mean and standard deviation.
    classes : sequence of str, optional
        Names of the folders in the order of the labels, where that is not the order of names.

    Raises
    ------
    DataError
        If there are no pictures, a class has none, or, when a batch is read, a file is damaged; it is named.
    ParameterError
        If sizes are impossible.
    """

    def __init__(self, root, *, size=224, resize=None, normalize=IMAGENET, classes=None):
        root = Path(root).expanduser()
        if resize is None and is_whole(size):
            resize = round(size * 256 / 224)
        if not (is_whole(size) and is_whole(resize) and 1 <= size <= resize):
            raise ParameterError(
                f"ImageFolder: size = {size!r}, resize = {resize!r}; expected whole numbers, 1 <= size <= resize"
            )
        names = _classes(root, classes)
        files, labels = [], []
        for label, name in enumerate(names):
            found = [path for path in sorted((root / name).rglob("*")) if _is_picture(path.relative_to(root))]
            if not found:
                raise DataError(f"{root / name}: no picture ({', '.join(SUFFIXES)}) in the folder of this class")
            files += found
            labels += [label] * len(found)
        images = _Files(files, int(size), int(resize))
        super().__init__(images, labels, name=root.name, classes=names, normalize=normalize)
        self.files = files


class _Files:
    """Pictures in files behind the indexing of an array uint8 [S, 3, size, size]."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, files, size, resize):
        self.files, self.size, self.resize, self.shape = files, size, resize, (len(files), 3, size, size)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, chosen):
        images = np.empty((len(chosen), *self.shape[1:]), np.uint8)

        def work(first, last):
            for k in range(first, last):
                images[k] = read_picture(self.files[chosen[k]], self.size, self.resize).transpose(2, 0, 1)

        threads.over(work, len(chosen))
        return images


def read_picture(path, size, resize) -> np.ndarray:
    """A picture's middle square, uint8 [size, size, 3], after the shorter side was scaled to `resize`.

    Raises DataError if the file is damaged, no picture, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: pixels of mode {image.mode}; expected a picture of 8 bits a channel")
            width, height = image.size
            scale = resize / min(width, height)
            wanted = tuple(resize if n == min(width, height) else int(n * scale) for n in (width, height))
            image = image.convert("RGB").resize(wanted, Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged or no picture: {error}") from error
    left, top = (round((n - size) / 2) for n in wanted)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _classes(root, classes):
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with a folder of pictures for each class")
    own = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if classes is None:
        if not own:
            raise DataError(f"{root}: has no folders; expected one with a folder of pictures for each class")
        return own
    missing = [name for name in classes if name not in own]
    if missing or len(set(classes)) < len(classes):
        raise DataError(f"{root}: classes without a folder of their own: {missing}; folders: {own[:5]}")
    return list(classes)


def _is_picture(path):
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)

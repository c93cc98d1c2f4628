"""Data sets of pictures for conventional networks: batches of float32 [B, C, H, W], normalised."""

from __future__ import annotations

import numpy as np

from nsim.checks import whole
from nsim.datasets.labelled import Epoch, Labelled
from nsim.errors import ParameterError, ShapeError


class Normalize:
    """Bytes to normalised floats: (x / 255 - mean) / std, for each channel.

    Parameters
    ----------
    mean, std : sequence of float, one for each channel; std > 0

    Called on uint8 [B, C, H, W] it gives float32 of the same shape.
    """

    def __init__(self, mean, std):
        self.mean, self.std = (tuple(float(v) for v in values) for values in (mean, std))
        finite = np.isfinite(self.mean).all() and np.isfinite(self.std).all()
        if len(self.mean) != len(self.std) or not finite or min(self.std, default=0) <= 0:
            raise ParameterError(f"Normalize: mean = {mean}, std = {std}; expected one of each a channel, std > 0")

    def __call__(self, images) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1] != len(self.mean) or images.dtype != np.uint8:
            raise ShapeError(
                f"Normalize: images of {images.dtype} and shape {images.shape}; "
                f"expected uint8 [batch, {len(self.mean)}, height, width]"
            )
        mean, std = (np.array(v)[:, None, None] for v in (self.mean, self.std))
        return images * (1 / (255 * std)).astype(np.float32) - (mean / std).astype(np.float32)

    def __repr__(self):
        return f"Normalize({self.mean}, {self.std})"


# Of the training images of ImageNet, in RGB. He et al.'s and torchvision's networks use them, many on CIFAR too.
IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNIT = Normalize((0.0,), (1.0,))  # grey pixels from 0 to 1


class ImageData(Labelled):
    """A data set of labelled pictures.

    Parameters
    ----------
    images : uint8 [S, C, H, W], or what can be indexed like it
    labels : int64 [S]
    name : str
        Says which data these are, as results on them should be quoted.
    classes : sequence of str
    normalize : function uint8 [B, C, H, W] -> float32 [B, C, H, W]
        The default of `batches`.

    Raises
    ------
    ShapeError
        If images and labels disagree, or images are not bytes [S, C, H, W].
    ParameterError
        If a label is no whole number, or not one of the classes.
    """

    def __init__(self, images, labels, *, name, classes, normalize):
        images = images if hasattr(images, "dtype") else np.asarray(images)
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels):
            raise ShapeError(
                f"{name}: images of {images.dtype} and shape {images.shape}, {len(labels)} labels; "
                "expected uint8 [S, C, H, W] and one label each"
            )
        super().__init__(labels, name=name, classes=classes)
        self._images, self.shape, self.normalize = images, images.shape[1:], normalize

    def __repr__(self):
        return f"<{self.name}: {len(self):,} pictures of shape {self.shape}, {self.n_classes} classes>"

    def pixels(self, chosen) -> np.ndarray:
        """Some pictures, by their numbers in this data set: uint8 [K, C, H, W]."""
        return self._images[self.index[chosen]]

    @property
    def images(self) -> np.ndarray:
        """All pictures, uint8 [len(self), C, H, W]."""
        return self.pixels(np.arange(len(self)))

    def batches(
        self, batch, *, shuffle=False, seed=0, epoch=0, transform=None, normalize=None, drop_last=False
    ) -> ImageBatches:  # fmt: skip
        """Batches for one epoch: an iterable with a length, of (images float32 [B, C, H, W], labels int64 [B]).

        Parameters
        ----------
        batch : int
            B; the last batch may be smaller unless `drop_last`.
        shuffle : bool
        seed, epoch : int
            The same pair gives the same batches, bit for bit.
        transform : function (uint8 [B, C, H, W], numpy Generator) -> uint8 [B, C, H, W], or a list of them, optional
            Random changes for training, made before pixels are normalised; see `Flip` and `Shift`.
        normalize : function uint8 [B, C, H, W] -> float32 [B, C, H, W]
            Default: that of the data set.

        Raises
        ------
        ParameterError
            If a number or a transform is impossible, or no sample is left.
        """
        return ImageBatches(
            self, batch, shuffle=shuffle, seed=seed, epoch=epoch, drop_last=drop_last, transform=transform,
            normalize=self.normalize if normalize is None else normalize,
        )  # fmt: skip


class ImageBatches(Epoch):
    """One epoch of batches of pictures; see `ImageData.batches`."""

    def __init__(self, data, batch, *, normalize, **options):
        super().__init__(data, batch, **options)
        self.normalize = normalize

    def __iter__(self):
        labels = self.data.labels
        for chosen, rng in self.parts():
            images = self.data.pixels(chosen)
            for transform in self.transforms:
                images = transform(images, rng)
            yield self.normalize(images), labels[chosen]


class Flip:
    """Mirror each picture, left to right, with probability a half."""

    def __call__(self, images, rng):
        return np.where(rng.random(len(images))[:, None, None, None] < 0.5, images[..., ::-1], images)


class Shift:
    """Move each picture by up to `most` pixels along both axes, zeros coming in: padding and a random crop.

    Source: He et al. 2016, section 4.2, with 4 pixels for CIFAR.
    """

    def __init__(self, most):
        whole("Shift", most=(most, 0))
        self.most = int(most)

    def __call__(self, images, rng):
        m, (batch, _, height, width) = self.most, images.shape
        wide = np.pad(images, ((0, 0), (0, 0), (m, m), (m, m)))
        windows = np.lib.stride_tricks.sliding_window_view(wide, (height, width), axis=(2, 3))
        down, across = rng.integers(0, 2 * m, (2, batch), endpoint=True)
        return windows[np.arange(batch), :, down, across]

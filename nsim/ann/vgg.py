"""VGG-16, by the names that its usual weight files have.

Source: Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", table 1,
column D.
"""

from __future__ import annotations

import numpy as np

from nsim.ann.graph import Graph
from nsim.errors import ParameterError

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a pooling after each
HEADS = {"cifar": (32, ()), "imagenet": (224, (4096, 4096))}  # side of the images, hidden layers of the classifier


def vgg16(classes=None, *, head="cifar", batch_norm=True, dtype=np.float32, seed=None) -> Graph:
    """VGG-16: 13 convolutions in 5 stages, with a maximum pooling after each, and a classifier.

    Parameters
    ----------
    classes : int, default 10, or 1000 with head="imagenet"
    head : "cifar" or "imagenet"
        Images of 32 x 32 and one linear layer on the 512 features that are left; or images of 224 x 224 and layers
        of 4096, 4096 and `classes` neurons. Dropout, which the paper trains with, is no part of the graph.
    batch_norm : bool
        Whether a batch norm follows each convolution; the paper has none.
    dtype, seed
        See `Graph`.

    Names are features.0, features.1, ..., and classifier.0, .3, .6 as in torchvision, or classifier (CIFAR).
    """
    if head not in HEADS:
        raise ParameterError(f'vgg16: head = {head!r}; expected "cifar" or "imagenet"')
    side, hidden = HEADS[head]
    classes = {"cifar": 10, "imagenet": 1000}[head] if classes is None else classes
    net = Graph(dtype=dtype, seed=seed)
    x = net.input((3, side, side))
    k = 0  # the place in torchvision's list of layers, which counts ReLUs and poolings too
    for stage in STAGES:
        for channels in stage:
            x = net.conv2d(x, channels, 3, padding=1, name=f"features.{k}")
            k += 1
            if batch_norm:
                x = net.batch_norm(x, name=f"features.{k}")
                k += 1
            x = net.relu(x, name=f"features.{k}")
            k += 1
        x = net.max_pool(x, 2, name=f"features.{k}")
        k += 1
    x = net.flatten(x, name="flatten")
    for j, size in enumerate(hidden):
        x = net.relu(net.linear(x, size, name=f"classifier.{3 * j}"), name=f"classifier.{3 * j + 1}")
    net.linear(x, classes, name=f"classifier.{3 * len(hidden)}" if hidden else "classifier")
    return net

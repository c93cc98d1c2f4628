"""A small network with a pool and a shortcut, and images for it."""

import numpy as np

from nsim import ann


def images(batch=6, shape=(2, 8, 8), seed=0):
    return np.random.default_rng(seed).normal(size=(batch, *shape)).astype(np.float32)


def network(pool_first=False, seed=0):
    """Two convolutions with batch norm, a pool, a shortcut and a classifier."""
    net = ann.Graph(seed=seed)
    x = net.batch_norm(net.conv2d(net.input((2, 8, 8)), 6, 3, padding=1, name="conv1"), name="norm1")
    if pool_first:
        x = net.relu(net.max_pool(x, 2, name="pool"), name="relu1")
    else:
        x = net.max_pool(net.relu(x, name="relu1"), 2, name="pool")
    y = net.relu(net.conv2d(x, 6, 3, padding=1, name="conv2"), name="relu2")
    y = net.conv2d(y, 6, 3, padding=1, name="conv3")
    x = net.relu(net.add(y, x, name="add"), name="relu3")
    net.linear(net.flatten(net.global_avg_pool(x, name="mean"), name="flat"), 4, name="fc")
    rng = np.random.default_rng(seed)
    for name, a in net.named_buffers().items():
        a[...] = rng.uniform(0.5, 2, a.shape) if name.endswith("var") else rng.normal(size=a.shape) / 4
    return net


def with_pools(kind, seed=0):
    """A network with a maximum of values that no ReLU has made: before a batch norm, behind one, of averages, of the
    images, of another maximum, and one that two ReLUs read."""
    net = ann.Graph(seed=seed)
    x = net.input((2, 8, 8))
    if kind == "images":
        x = net.max_pool(x, 2, name="pool")
    x = net.conv2d(x, 4, 3, padding=1)
    if kind == "before norm":
        x = net.batch_norm(net.max_pool(net.conv2d(net.relu(x), 4, 3), 2, name="pool"))
    elif kind == "behind norm":
        x = net.max_pool(net.batch_norm(net.relu(x)), 2, name="pool")
    elif kind == "averages":
        x = net.max_pool(net.avg_pool(net.conv2d(net.relu(x), 4, 3), 2), 2, name="pool")
    elif kind == "maximum":
        x = net.max_pool(net.max_pool(net.conv2d(net.relu(x), 4, 3), 2), 2, name="pool")
    elif kind == "two readers":
        x = net.max_pool(net.conv2d(net.relu(x), 4, 3), 2, name="pool")
        x = net.add(net.relu(x), net.conv2d(net.relu(x), 4, 1))
    x = net.relu(net.conv2d(x, 5, 1))
    net.linear(net.flatten(x), 3)
    rng = np.random.default_rng(seed)
    for node in net:
        if isinstance(node.operation, ann.BatchNorm):
            node.operation.weight.data[...] = rng.choice([-1, 1], node.shape[-1]) * rng.uniform(0.5, 2, node.shape[-1])
            node.operation.bias.data[...] = rng.normal(size=node.shape[-1])
    return net


POOLS = ("images", "before norm", "behind norm", "averages", "maximum", "two readers")

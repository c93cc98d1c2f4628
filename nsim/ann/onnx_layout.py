"""What ONNX nodes that only move or pass on numbers become in a graph: one function for each, listed in `LAYOUT`.

There pictures are [B, C, H, W], here [B, H, W, C]; see `onnx_nodes`.
"""

from __future__ import annotations

import numpy as np

from nsim.ann.conv import IdentityShortcut

BATCH = 2**31 - 1  # stands for the open batch where a file computes with shapes; a prime, so that no other size is it


def flatten(item):
    if item.get("axis", 1) not in (1, -len(item.node().shape)):
        raise item.refused(f"axis = {item.get('axis')}; only 1, which keeps the batch, is supported")
    return _flat(item)


def reshape(item):
    """To [batch, all the rest]; the batch may be open (-1, 0) or what the file was exported with."""
    x, target = item.node(), item.constant(1, "sizes")
    size = int(np.prod(x.shape))
    wanted = [int(n) for n in target]
    first = {-1, 0, BATCH, item.reader.batch}
    if len(wanted) == 2 and wanted[0] in first and wanted[1] in (-1, size) and wanted != [-1, -1]:
        return _flat(item)
    now = [x.shape[-1], *x.shape[:-1]]
    if len(wanted) == len(now) + 1 and wanted[0] in first and wanted[1:] == now:
        return x
    raise item.refused(f"to {wanted}; only to vectors, [batch, {size}], is supported")


def squeeze(item):
    x, axes = item.node(), item.get("axes")
    axes = item.constant(1, "axes", needed=False) if axes is None else axes
    if axes is None and item.reader.batch != 1 and x.shape[-1] > 1:  # else the batch or the channels would go as well
        axes = [2, 3]
    if x.shape[:-1] != (1, 1) or axes is None or sorted(int(a) % 4 for a in np.ravel(axes)) != [2, 3]:
        raise item.refused(f"over axes {axes} of a value of shape {x.shape}; only a picture of one pixel to a vector")
    return _flat(item)


def identity(item):
    return item.node()


def cast(item):
    """Nothing, where it is to the numbers that the graph computes in, or to float32, which float64 widens."""
    from onnx import helper

    if helper.tensor_dtype_to_np_dtype(item.get("to")) not in (np.float32, item.graph.dtype):
        raise item.refused(f"to other numbers than {item.graph.dtype}, in which the graph computes")
    return item.node()


def transpose(item):
    raise item.refused(
        f"orders the axes anew, {item.get('perm')}; images are [batch, channels, height, width] here",
        "export it with channels first (tf2onnx: --inputs-as-nchw with the name of the input)",
    )


def dropout(item):
    """Nothing, in inference."""
    if np.any(item.constant(2, "mode", needed=False)):
        raise item.refused("it was exported in training mode", "export after eval()")
    return item.node()


def slice_(item):
    """Every so many pixels from the first on: where a shortcut of option A begins."""
    x = item.node()
    parts = [
        item.constant(k, what, needed=False) for k, what in enumerate(("starts", "ends", "axes", "steps"), start=1)
    ]
    if parts[0] is None:  # before opset 10 they are attributes, and there are no steps
        raise item.refused("cuts out a part; only steps over all pixels are supported")
    rank, count = len(x.shape) + 1, len(parts[0])
    parts[2:] = [np.arange(count) if parts[2] is None else parts[2], [1] * count if parts[3] is None else parts[3]]
    stride, sizes = [1, 1], (1, x.shape[-1], *x.shape[:-1])
    for start, end, axis, step in zip(*parts, strict=True):
        axis = int(axis) % rank
        whole = start == 0 and end >= (sizes[axis] if axis else 2**30)
        if not whole or step < 1 or (step > 1 and (axis < 2 or rank != 4)):
            raise item.refused(f"takes {start}:{end}:{step} of axis {axis}; only steps over all pixels are supported")
        if step > 1:
            stride[axis - 2] = int(step)
    return x if stride == [1, 1] else _shortcut(item, x, x.shape[-1], stride, 0)


def pad(item):
    """Zeros around the input: channels, where a shortcut of option A ends, or pixels, the padding of what follows."""
    x, pads = item.node(), item.get("pads")
    sizes = np.asarray(item.constant(1, "sizes") if pads is None else pads)
    fill, axes = item.constant(2, "filling", needed=False), item.constant(3, "axes", needed=False)
    fill = item.get("value") if fill is None else fill  # before opset 11
    rank = len(x.shape) + 1
    around = np.zeros((rank, 2), int)
    around[np.arange(rank) if axes is None else axes % rank] = sizes.reshape(2, -1).T
    if item.get("mode", "constant") != "constant" or (fill is not None and np.any(fill != 0)):
        raise item.refused("pads with something else than zeros")
    if rank != 4 or around.min() < 0 or around[0].any():
        raise item.refused(
            f"pads by {around.tolist()} (batch, channels, height, width); only channels and pixels are supported"
        )
    if not around.any():
        return x
    before, after = around[1].tolist()
    return _shortcut(item, x, x.shape[-1] + before + after, (1, 1), before, around[2:].tolist())


def _shortcut(item, x, channels, stride, before, padding=((0, 0), (0, 0))):
    """An IdentityShortcut; together with one before it that takes every so many pixels, as one."""
    made = x.operation
    strides = isinstance(made, IdentityShortcut) and made.in_channels == made.out_channels
    if strides and not np.any((made.windows.padding, padding)) and item.alone():
        stride = tuple(a * b for a, b in zip(stride, made.windows.stride, strict=True))
        x = x.inputs[0]
    return item.graph.identity_shortcut(x, channels, stride=stride, before=before, padding=padding, name=item.name())


def _flat(item):
    x = item.node()
    return x if len(x.shape) == 1 else item.graph.flatten(x, name=item.name())


LAYOUT = {
    "Cast": cast, "Dropout": dropout, "Flatten": flatten, "Identity": identity, "Pad": pad, "Reshape": reshape,
    "Slice": slice_, "Squeeze": squeeze, "Transpose": transpose,
}  # fmt: skip

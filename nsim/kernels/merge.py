"""Two rows of ascending neurons as one: all events of both, or each site once."""

import numpy as np

from nsim.kernels.jit import kernel


@kernel
def merge(first, last, a, b, indptr, indices, values):
    """Rows with the events of both, those of `a` first among equals; `a` and `b` are (indptr, indices, values)."""
    (a_ptr, a_places, a_sizes), (b_ptr, b_places, b_sizes) = a, b
    graded = values.shape[0] > 0
    for row in range(first, last):
        i, j = a_ptr[row], b_ptr[row]
        for k in range(indptr[row], indptr[row + 1]):
            from_a = j == b_ptr[row + 1] or (i < a_ptr[row + 1] and a_places[i] <= b_places[j])
            indices[k] = a_places[i] if from_a else b_places[j]
            if graded:
                size = np.float32(1)
                if from_a and a_sizes.shape[0] > 0:
                    size = a_sizes[i]
                elif not from_a and b_sizes.shape[0] > 0:
                    size = b_sizes[j]
                values[k] = size
            i, j = (i + 1, j) if from_a else (i, j + 1)


@kernel
def union(first, last, a, b, indptr, indices):
    """Each site of `a` or `b` (indptr, indices) once. Without room in `indices`, their number to indptr[row + 1]."""
    (a_ptr, a_places), (b_ptr, b_places) = a, b
    counting = indices.shape[0] == 0
    for row in range(first, last):
        i, j, k = a_ptr[row], b_ptr[row], np.int64(0)
        while i < a_ptr[row + 1] or j < b_ptr[row + 1]:
            from_a = j == b_ptr[row + 1] or (i < a_ptr[row + 1] and a_places[i] <= b_places[j])
            place = a_places[i] if from_a else b_places[j]
            i += i < a_ptr[row + 1] and a_places[i] == place
            j += j < b_ptr[row + 1] and b_places[j] == place
            if not counting:
                indices[indptr[row] + k] = place
            k += 1
        if counting:
            indptr[row + 1] = k


@kernel
def pick(first, last, sites, whole, grad, out):
    """out[j] = the entry of grad, which lies on the sites `whole`, at each of the sites (indptr, indices) in it."""
    (ptr, places), (whole_ptr, whole_places) = sites, whole
    for row in range(first, last):
        k = whole_ptr[row]
        for j in range(ptr[row], ptr[row + 1]):
            while whole_places[k] != places[j]:
                k += 1
            out[j] = grad[k]


@kernel
def pick_dense(first, last, sites, grad, out):
    """The same from grad [B * T, N] on all sites."""
    ptr, places = sites
    for row in range(first, last):
        for j in range(ptr[row], ptr[row + 1]):
            out[j] = grad[row, places[j]]

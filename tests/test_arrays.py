"""Aligned arrays, and the memory of large ones, which the next takes over."""

import threading

import numpy as np
import pytest

from nsim import arrays

ROWS = 2**20  # of 32 bytes: as many as LARGE says


@pytest.fixture
def idle():
    """The memory that lies idle, none at first."""
    arrays.release()
    yield arrays._idle
    arrays.release()


def large(rows=ROWS):
    return arrays.empty((rows, 8), np.float32)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (ROWS, 8)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_begin_at_a_cache_line(shape, dtype, idle):
    for array in (arrays.empty(shape, dtype), arrays.zeros(shape, dtype), arrays.copied(np.ones(shape), dtype)):
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
        assert array.ctypes.data % arrays.LINE == 0
    assert not arrays.zeros(shape, dtype).any() and arrays.copied(np.ones(shape), dtype).all()


def test_memory_of_a_large_array_is_lent_again(idle):
    place = large().ctypes.data
    assert len(idle) == 1
    assert large(ROWS + 5).ctypes.data != place, "larger than what is idle"
    again = large(ROWS)
    assert again.ctypes.data == place
    assert large().ctypes.data != place, "in use"


def test_what_is_far_too_large_is_not_lent(idle):
    place = large(2 * ROWS).ctypes.data
    assert large().ctypes.data != place


def test_any_view_keeps_memory_in_use(idle):
    view = large()[10:20].reshape(-1)[3:].view(np.int32)
    view[:] = 7
    others = [large() for _ in range(3)]
    for other in others:
        other[:] = 1
    assert not idle and (view == 7).all()
    del view, other, others
    assert len(idle) == 4


def test_small_arrays_leave_nothing_behind(idle):
    arrays.empty((1000, 8), np.float32)
    assert not idle


def test_idle_memory_has_a_bound(idle):
    held = [large(4 * ROWS) for _ in range(arrays.IDLE // (4 * 32 * ROWS) + 2)]
    oldest = held[0].ctypes.data
    while held:
        held.pop(0)
    assert sum(raw.nbytes for raw in idle.values()) <= arrays.IDLE
    assert oldest not in {raw.ctypes.data for raw in idle.values()}
    assert len(idle) >= arrays.IDLE // (4 * 32 * ROWS) - 1


def test_idle_memory_is_given_back(idle):
    in_use = large()
    large()
    arrays.release()
    assert not idle
    in_use[:] = 1
    del in_use
    assert len(idle) == 1


def test_threads_never_share(idle):
    """Each writes its own number all over an array and finds it there."""
    wrong = []

    def work(number):
        for _ in range(30):
            array = large()
            array[::4096] = number
            if (array[::4096] != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and idle

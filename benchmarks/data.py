"""Events a second from warm cache into sorted batches at 2 ms, nsim against Tonic's ToFrame in the same run.

    python benchmarks/data.py [--data shd|synthetic] [--threads 2] [--out results.md]

nsim reads its memory-mapped cache and makes sorted `Spikes`; Tonic, where it is installed, makes a dense frame of each
sample from events that lie in memory already as the structured arrays it asks for (no file is read in its time).
"""

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from pathlib import Path

import numba
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Report, machine, table, versions
from nsim.datasets import SHD, Synthetic
from nsim.errors import DataError, EventWarning

DT, STEPS, BATCH = 2e-3, 500, 256


def nsim_epoch(data, **options):
    """Events a second over one epoch of batches."""
    start, batches = time.perf_counter(), data.batches(BATCH, dt=DT, steps=STEPS, **options)
    for _ in batches:
        pass
    return batches.events / (time.perf_counter() - start)


def tonic_frames(data, count):
    """A function that times Tonic's ToFrame on `count` samples and returns events a second."""
    from tonic.transforms import ToFrame

    kind = np.dtype([("t", np.int64), ("x", np.int64), ("p", np.int64)])
    samples = []
    for i in range(count):
        times, units, _ = data[i]
        events = np.zeros(len(times), kind)
        events["t"], events["x"], events["p"] = np.rint(times * 1e6), units, 1
        samples.append(events)
    frame = ToFrame(sensor_size=(data.n, 1, 1), time_window=round(DT * 1e6))

    def epoch():
        start = time.perf_counter()
        for events in samples:
            frame(events)
        return sum(len(events) for events in samples) / (time.perf_counter() - start)

    return epoch


def chosen(name):
    if name == "shd":
        try:
            return SHD("train")
        except DataError as error:
            print(f"{error}\nusing the built-in generator instead\n")
    return Synthetic("train")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("shd", "synthetic"), default="shd")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=256, help="samples that Tonic is timed on")
    parser.add_argument("--out", help="also write the results to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", EventWarning)
    numba.set_num_threads(options.threads)
    data, report = chosen(options.data), Report(options.out)

    ways = {
        "nsim, in order": lambda: nsim_epoch(data),
        "nsim, shuffled": lambda: nsim_epoch(data, shuffle=True, seed=1),
        "nsim, shuffled and clamped": lambda: nsim_epoch(data, shuffle=True, seed=1, clamp=True),
    }
    if importlib.util.find_spec("tonic"):
        ways["Tonic ToFrame"] = tonic_frames(data, min(options.samples, len(data)))
    rates = {name: [] for name in ways}
    for round_ in range(options.repeats + 1):
        for name, way in ways.items():
            rate = way()
            if round_ > 0:  # the first compiles and fills the page cache
                rates[name].append(rate)

    report(f"{data!r}, B = {BATCH}, T = {STEPS}, dt = {DT:g} s")
    report(f"{machine(options.threads)}; {versions('numpy', 'numba', 'tonic')}; median of {options.repeats}\n")
    slowest = statistics.median(rates["Tonic ToFrame"]) if "Tonic ToFrame" in rates else None
    rows = []
    for name, seen in rates.items():
        median = statistics.median(seen)
        rows.append([name, f"{median / 1e6:.1f}", f"{median / slowest:.0f}x" if slowest else "Tonic is not installed"])
    report(table(["way", "million events/s", "of Tonic"], rows))


if __name__ == "__main__":
    main()

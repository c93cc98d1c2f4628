"""Every peer computes the same network: loss and gradients on a small batch against the oracle in tests/reference.py.

    python benchmarks/agree.py

Exits with 1 where a peer's loss is off by more than 1e-5 of it or a gradient by more than 3e-4 of its largest entry.
SpikingJelly is held against its own model, in which the subtracted threshold decays (see its module).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Report, Worker, table
from benchmarks.peers import PEERS
from benchmarks.shapes import SHAPES, make_events, make_weights
from tests import reference


def decaying_reset(state, s, r, x, p):
    """LIF whose reset happens at the spike: v[t] = beta (v[t-1] - theta s[t-1]) + x[t]."""
    (v,) = state
    v = np.exp(-p["dt"] / p["tau_mem"]) * (v - p["threshold"] * r) + x
    return (v,), v - p["threshold"]


reference.MODELS["LIF, decaying reset"] = (decaying_reset, 1, ("tau_mem", "threshold"))
reference.SPIKING += ("LIF, decaying reset",)


def expected(shape, weights, model, band):
    """Loss and weight gradients of the oracle."""
    neuron = {"tau_mem": shape.tau_mem, "threshold": 1.0}
    options = {"delay": shape.delay, "surrogate": lambda u: reference.fast_sigmoid(u, shape.slope), "band": band}
    layers = [reference.Layer(model, w.astype(np.float64), neuron, shape.dt, **options) for w in weights[:-1]]
    out = {"tau_mem": shape.tau_out}
    layers.append(reference.Layer("LI", weights[-1].astype(float), out, shape.dt, delay=shape.delay, reduce="sum"))
    events = make_events(shape)
    found = reference.net_gradients(
        layers, events.dense(time_first=False), lambda out: reference.cross_entropy(out, events.labels)[1]
    )
    return reference.cross_entropy(found.out, events.labels)[0], [g["weight"] for g in found.layers]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS), metavar="PEER")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    report, rows, wrong = Report(), [], []
    for delay in (0, 1):
        shape = replace(SHAPES["shd"], n_in=60, hidden=(33, 20), n_out=7, batch=5, steps=50, density=0.1, delay=delay)
        weights, _ = make_weights(shape, 0.05)
        for name in args.peers:
            peer, options = PEERS[name]
            model = "LIF, decaying reset" if name == "SpikingJelly" else "LIF"
            loss, grads = expected(shape, weights, model, options.get("band"))
            with Worker(peer, shape, weights, args.threads, **options) as worker:
                found_loss, found = worker.call("gradients")
            loss_error = abs(found_loss - loss) / loss
            errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, grads, strict=True)]
            rows.append([name, delay, f"{found_loss:.6f}", f"{loss_error:.1e}", " ".join(f"{e:.1e}" for e in errors)])
            if loss_error > 1e-5 or max(errors) > 3e-4:
                wrong.append(f"{name} (delay {delay})")
    report(table(["framework", "delay", "loss", "its error", "gradient errors, by layer"], rows))
    if wrong:
        sys.exit(f"\nnot the same network: {', '.join(wrong)}")


if __name__ == "__main__":
    main()

"""A neuron model of one's own: adLIF, with two coupled states.

    v[t] = beta v[t-1] + (1 - beta) (x[t] - w[t-1]) - theta s[t-1]       membrane
    w[t] = rho w[t-1] + (1 - rho) a v[t-1] + b s[t-1]                    adaptation current

The adaptation grows below threshold with v (a) and jumps at each spike (b). Everything that training needs is in the
class below: the step, its adjoint, and the distance to the threshold with its adjoint. The sweeps, the tape, files and
the parametrised tests (`pytest tests/test_neurons.py tests/test_sweeps.py`) take it from the registry; those of the
sweeps also need the same equations as plain loops, in `MODELS` of tests/reference.py (see CONTRIBUTING.md).

Model: Bittar & Garner 2022, equations 5-6 (their adLIF), here with explicit Euler coupling and w as a current.

    python examples/custom_neuron.py --smoke
"""

import numpy as np

import nsim
from nsim import losses, nn, optim, plot
from nsim.neurons import Equations, Parameter, SpikingNeuron, TimeConstant, register


@register
class AdLIF(SpikingNeuron):
    """Adaptive leaky integrate-and-fire with sub-threshold (a) and spike-triggered (b) adaptation."""

    states = ("v", "w")
    parameters = (
        TimeConstant("tau_mem"),
        TimeConstant("tau_adapt"),
        Parameter("a"),
        Parameter("b"),
        Parameter("threshold"),
    )

    def __init__(self, tau_mem=10e-3, tau_adapt=60e-3, *, a=0.5, b=0.4, threshold=1.0, **options):
        values = {"tau_mem": tau_mem, "tau_adapt": tau_adapt, "a": a, "b": b, "threshold": threshold}
        super().__init__(values, **options)

    def equations(self, one):
        to_zero = self.reset == "zero"
        kept = one * (not self.detach_reset)

        def step(state, s, x, p):
            (v, w), (beta, rho, a, b, theta) = state, p
            drive = (one - beta) * (x - w)
            new_w = rho * w + (one - rho) * a * v + b * s
            if to_zero:
                return beta * v * (one - s) + drive, new_w
            return beta * v + drive - theta * s, new_w

        def step_adjoint(d, state, s, x, p):
            (dv, dw), (v, w), (beta, rho, a, b, theta) = d, state, p
            decay, reset, dtheta = (beta * (one - s), beta * v, one - one) if to_zero else (beta, theta, -s * dv)
            held = v * (one - s) if to_zero else v
            dstate = decay * dv + (one - rho) * a * dw, rho * dw - (one - beta) * dv
            dp = (held - x + w) * dv, (w - a * v) * dw, (one - rho) * v * dw, s * dw, dtheta
            return dstate, b * dw - kept * reset * dv, (one - beta) * dv, dp

        def potential(state, p):
            return state[0] - p[4]

        def potential_adjoint(du, state, p):
            zero = one - one
            return (du, zero), (zero, zero, zero, zero, -du)

        return Equations.of(step, step_adjoint, potential, potential_adjoint)


def delayed_pairs(batch, steps, seed):
    """Two pulses on channel 0, near or far apart in time (label 0 or 1), among background spikes on channels 1-9."""
    rng = np.random.default_rng(seed)
    counts = (rng.random((batch, steps, 10)) < 0.02).astype(int)
    counts[:, :, 0] = 0
    labels = rng.integers(0, 2, batch)
    first = rng.integers(5, 15, batch)
    for b, (t, label) in enumerate(zip(first, labels, strict=True)):
        counts[b, t : t + 3, 0] += 1
        counts[b, t + (8 if label == 0 else 30) : t + (11 if label == 0 else 33), 0] += 1
    return nsim.Spikes.from_dense(counts, dt=1e-3), labels


def main():
    from _shared import command_line, save  # here: tests import the model above from elsewhere

    args = command_line(__doc__, "custom-neuron", data="not used: this script makes its data")
    nsim.seed(args.seed)
    hidden = AdLIF(learn=("tau_mem", "tau_adapt"), surrogate=nsim.FastSigmoid(10), band=None)
    net = nn.Sequential(nn.Dense(10, 40, hidden, recurrent=True), nn.Dense(40, 2, nsim.LI(20e-3, reduce="mean")))
    net[0].weight.data *= 4  # adLIF answers its drive more faintly than LIF
    opt = optim.Adam(net.parameters(), lr=1e-2)
    for step in range(10 if args.smoke else 300):
        spikes, labels = delayed_pairs(128, 60, seed=args.seed + step)
        loss = losses.cross_entropy(net(spikes), labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 50 == 0:
            print(f"step {step:3d}  loss {loss.item():.3f}")
    spikes, labels = delayed_pairs(500, 60, seed=10_000 + args.seed)
    with nsim.no_grad():
        right = (net(spikes).data.argmax(1) == labels).mean()
    print(f"accuracy {right:.1%} on 500 new samples; tau_mem {net[0].value('tau_mem') * 1e3:.1f} ms (started at 10 ms)")
    far = int(np.flatnonzero(labels == 1)[0])
    counts = np.bincount(net.run(spikes).spikes[0].sample(far)[1], minlength=40)
    busy = sorted(np.argsort(-counts, kind="stable")[:6:2].tolist())
    run = net.run(spikes, record={0: busy})
    axes = plot.raster_and_membrane(run.spikes[0], run.recorded[0]["v"], busy, sample=far)
    save(axes[0], args.out / "adlif.png")
    return 0


if __name__ == "__main__":
    from _shared import run

    run(main)

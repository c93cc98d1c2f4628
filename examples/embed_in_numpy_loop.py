"""nsim inside other code: spiking neurons balance an inverted pendulum that is simulated in NumPy.

In each step of the loop the pendulum's angle and velocity become spikes, `net.run` takes the network one step on from
the state it had, and its readout is the torque. The network learnt the torque from a linear controller, on recorded
trajectories. At the end the whole input is run once more in one piece: spikes and torques must be the same bits.

Two checks decide the exit status: these bits, and that every pendulum stands after a push. The sensors' place code is
that of Eliasmith & Anderson 2003, Neural Engineering, chapter 2, with spikes from integrators without leak.
"""

from time import perf_counter

import numpy as np
from _shared import command_line, run, save

import nsim
from nsim import losses, nn, optim, plot

DT, STEPS = 4e-3, 750  # seconds, and steps of the closed loop: 3 s
SENSORS, RATE = 24, 150.0  # neurons for each of angle and velocity; Hz at the centre of a sensor's range
RANGE = np.array([0.8, 3.0])  # rad and rad/s that the sensors cover to both sides
GAINS = np.array([35.0, 9.0])  # of the teacher: torque = -(35 angle + 9 velocity), mass and length 1
SCALE = 10.0  # torque for a readout of 1
FELL, STANDS = 1.2, 0.3  # rad


def swing(state, torque, push=0.0):
    """One step of the pendulum, x'' = 9.81 sin x + torque (semi-implicit Euler); a fallen one lies still."""
    angle, velocity = state.T
    velocity = velocity + DT * (9.81 * np.sin(angle) + torque + push)
    fallen = np.abs(angle) > FELL
    return np.stack([angle + DT * np.where(fallen, 0, velocity), np.where(fallen, 0, velocity)], axis=1)


class Sensors:
    """Angle and velocity [B, 2] to spikes [B, 2 * SENSORS]: each sensor integrates how near the value is to its own."""

    def __init__(self, batch, rng):
        self.charge = rng.random((batch, 2, SENSORS))
        self.centres = np.linspace(-1, 1, SENSORS)

    def __call__(self, state):
        place = np.clip(state / RANGE, -1, 1)[:, :, None]
        self.charge += DT * RATE * np.exp(-0.5 * ((place - self.centres) / 0.12) ** 2)
        fired = self.charge >= 1
        self.charge -= fired
        return fired.reshape(len(state), -1).astype(int)


def teach(net, rounds, rng):
    """Train on trajectories of the teacher, thrown off course so that all states occur; the mean loss at the end."""
    batch, steps, seen = 256, 200, []
    state, sensors, spikes, torques = rng.normal(0, [0.3, 0.8], (batch, 2)), Sensors(batch, rng), [], []
    for t in range(steps):
        if t % 25 == 0:
            push = rng.normal(0, 8.0, batch)
        spikes.append(sensors(state))
        torques.append(-state @ GAINS)
        state = swing(state, torques[-1], push)
    spikes, torques = np.stack(spikes, axis=1), np.stack(torques, axis=1)[:, :, None] / SCALE
    opt = optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(rounds):
        few = rng.integers(0, batch, 32)
        loss = losses.mse(net(nsim.Spikes.from_dense(spikes[few], DT)), torques[few])
        opt.zero_grad()
        loss.backward()
        opt.step()
        seen.append(loss.item())
    return np.mean(seen[-10:])


def close_the_loop(net, start, rng):
    """Pendulums and network, step by step; angles, inputs, torques and hidden spikes."""
    state, free, inner, sensors = start.copy(), start.copy(), None, Sensors(len(start), rng)
    log = {"angle": [], "free": [], "input": [], "torque": [], "hidden": []}
    for t in range(STEPS):
        counts = sensors(state)
        step = net.run(nsim.Spikes.from_dense(counts[:, None, :], DT), state=inner)
        inner, torque = step.state, step.output[:, 0, 0]
        push = 20.0 if STEPS // 2 <= t < STEPS // 2 + 15 else 0.0
        state, free = swing(state, SCALE * torque, push), swing(free, 0.0, push)
        now = state[:, 0], free[:, 0], counts, torque, step.spikes[0].to_dense()[:, 0]
        for values, value in zip(log.values(), now, strict=True):
            values.append(value)
    return {key: np.stack(values, axis=1) for key, values in log.items()}


def draw(log, hidden, path):
    import matplotlib.pyplot as plt

    time, rows = np.arange(STEPS) * DT, {"height_ratios": (1, 0.8, 1.3)}
    top, middle, bottom = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout="constrained", gridspec_kw=rows)[1]
    top.plot(time, log["free"].T, color="0.8", linewidth=0.8)
    top.plot(time, log["angle"].T, color=plot.PALETTE[0], linewidth=0.8)
    top.axvspan(STEPS // 2 * DT, (STEPS // 2 + 15) * DT, color=plot.PALETTE[4], alpha=0.4, linewidth=0)
    top.set(ylabel="angle (rad)", ylim=(-FELL, FELL), title="grey: without control; shaded: a push")
    middle.plot(time, SCALE * log["torque"][0], color=plot.PALETTE[1], linewidth=0.8)
    middle.set(ylabel="torque on the first")
    plot.raster(hidden, sample=0, ax=bottom, color=plot.PALETTE[2])
    bottom.set(ylabel="hidden neuron")
    save(top, path)


def main():
    args = command_line(__doc__, "pendulum", data="not used: this script makes its data")
    rng = np.random.default_rng(args.seed)
    nsim.seed(args.seed)
    net = nn.Sequential(nn.Dense(2 * SENSORS, 100, nsim.LIF(tau_mem=20e-3)), nn.Dense(100, 1, nsim.LI(tau_mem=20e-3)))
    net[0].weight.data *= 2
    print(f"learning from the teacher: mean squared error {teach(net, 60 if args.smoke else 300, rng):.4f}")
    start = rng.uniform(-0.3, 0.3, (4 if args.smoke else 16, 2))
    began = perf_counter()
    log = close_the_loop(net, start, rng)
    step = (perf_counter() - began) / STEPS
    print(f"closed loop of {len(start)} pendulums: {1e3 * step:.2f} ms for a step of {1e3 * DT:.0f} ms")
    whole = net.run(nsim.Spikes.from_dense(log["input"], DT))
    pairs = (whole.output[:, :, 0], log["torque"]), (whole.spikes[0].to_dense(), log["hidden"])
    same = all(np.array_equal(a, b) for a, b in pairs)
    print(f"step by step and in one piece give {'the same bits' if same else 'DIFFERENT BITS'}")
    late = np.abs(log["angle"][:, -125:]).max(axis=1)
    print(f"{np.sum(late < STANDS)} of {len(start)} stand; largest angle of the last half second {late.max():.3f} rad; "
          f"without control {np.sum(np.abs(log['free'][:, -1]) > FELL)} fall")  # fmt: skip
    draw(log, whole.spikes[0], args.out / "pendulum.png")
    return 0 if same and late.max() < STANDS else 1


if __name__ == "__main__":
    run(main)

"""Leaky integrate-and-fire neuron."""

from nsim.neurons.base import Equations, Parameter, SpikingNeuron, TimeConstant


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire.

        v[t] = beta v[t-1] + x[t] - theta s[t-1]          reset="subtract"
        v[t] = beta v[t-1] (1 - s[t-1]) + x[t]            reset="zero"
        s[t] = 1 if v[t] > theta else 0,                  beta = exp(-dt / tau_mem)

    Parameters
    ----------
    tau_mem : float or array [N], seconds
        Membrane time constant, > 0.
    threshold : float or array [N], units of the drive
        theta.
    reset, surrogate, band, detach_reset, v_init, learn
        See `nsim.neurons.base.SpikingNeuron`.

    Source: Perez-Nieves & Goodman 2021, equations 1-3; their layers add a delay of one step (`delay=1`).
    snnTorch's Leaky subtracts the reset in the same step as the decay, like here; Norse's LIF has a synaptic current
    and adds dt/tau (v_leak - v) (forward Euler); SpikingJelly's LIFNode scales the drive by 1/tau.
    """

    states = ("v",)
    parameters = (TimeConstant("tau_mem"), Parameter("threshold"))

    def __init__(self, tau_mem=10e-3, *, threshold=1.0, **options):
        super().__init__({"tau_mem": tau_mem, "threshold": threshold}, **options)

    def equations(self, one):
        to_zero = self.reset == "zero"
        kept = one * (not self.detach_reset)

        def step(state, s, x, p):
            (v,), (beta, theta) = state, p
            if to_zero:
                return (beta * v * (one - s) + x,)
            return (beta * v + x - theta * s,)

        def step_adjoint(d, state, s, x, p):
            (dv,), (v,), (beta, theta) = d, state, p
            if to_zero:
                return (beta * (one - s) * dv,), -kept * beta * v * dv, dv, (v * (one - s) * dv, one - one)
            return (beta * dv,), -kept * theta * dv, dv, (v * dv, -s * dv)

        def potential(state, p):
            return state[0] - p[1]

        def potential_adjoint(du, state, p):
            return (du,), (one - one, -du)

        return Equations.of(step, step_adjoint, potential, potential_adjoint)

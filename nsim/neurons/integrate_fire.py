"""Integrate-and-fire neuron without leak."""

from nsim.neurons.base import Equations, Parameter, SpikingNeuron


class IF(SpikingNeuron):
    """Integrate-and-fire: LIF with beta = 1.

        v[t] = v[t-1] + x[t] - theta s[t-1]               reset="subtract"
        v[t] = v[t-1] (1 - s[t-1]) + x[t]                 reset="zero"
        s[t] = 1 if v[t] > theta else 0

    Parameters
    ----------
    threshold : float or array [N], units of the drive
        theta.
    reset, surrogate, band, detach_reset, v_init, learn
        See `nsim.neurons.base.SpikingNeuron`. `v_init=threshold / 2` rounds rates to nearest.

    Source: the limit tau_mem -> infinity of `nsim.neurons.lif`.
    """

    states = ("v",)
    parameters = (Parameter("threshold"),)

    def __init__(self, *, threshold=1.0, **options):
        super().__init__({"threshold": threshold}, **options)

    def equations(self, one):
        to_zero = self.reset == "zero"
        kept = one * (not self.detach_reset)

        def step(state, s, x, p):
            (v,), (theta,) = state, p
            if to_zero:
                return (v * (one - s) + x,)
            return (v + x - theta * s,)

        def step_adjoint(d, state, s, x, p):
            (dv,), (v,), (theta,) = d, state, p
            if to_zero:
                return ((one - s) * dv,), -kept * v * dv, dv, (one - one,)
            return (dv,), -kept * theta * dv, dv, (-s * dv,)

        def potential(state, p):
            return state[0] - p[0]

        def potential_adjoint(du, state, p):
            return (du,), (-du,)

        return Equations.of(step, step_adjoint, potential, potential_adjoint)

"""Leaky integrate-and-fire neuron with an exponential synaptic current."""

from nsim.neurons.base import Equations, Parameter, SpikingNeuron, TimeConstant


class CubaLIF(SpikingNeuron):
    """Current-based leaky integrate-and-fire.

        i[t] = alpha i[t-1] + x[t]
        v[t] = beta v[t-1] + i[t] - theta s[t-1]          reset="subtract"
        v[t] = beta v[t-1] (1 - s[t-1]) + i[t]            reset="zero"; the current is not reset
        s[t] = 1 if v[t] > theta else 0
        alpha = exp(-dt / tau_syn), beta = exp(-dt / tau_mem)

    Parameters
    ----------
    tau_mem, tau_syn : float or array [N], seconds
        Time constants of membrane and synapse, > 0.
    threshold : float or array [N], units of the drive
        theta.
    reset, surrogate, band, detach_reset, v_init, learn
        See `nsim.neurons.base.SpikingNeuron`.

    Source: Zenke & Vogels 2021, equations 1-3, without their factor (1 - beta). snnTorch's Synaptic is the same model;
    Norse's LIF integrates i of the previous step.
    """

    states = ("v", "i")
    parameters = (TimeConstant("tau_mem"), TimeConstant("tau_syn"), Parameter("threshold"))

    def __init__(self, tau_mem=10e-3, tau_syn=5e-3, *, threshold=1.0, **options):
        super().__init__({"tau_mem": tau_mem, "tau_syn": tau_syn, "threshold": threshold}, **options)

    def equations(self, one):
        to_zero = self.reset == "zero"
        kept = one * (not self.detach_reset)

        def step(state, s, x, p):
            (v, i), (beta, alpha, theta) = state, p
            i = alpha * i + x
            if to_zero:
                return beta * v * (one - s) + i, i
            return beta * v + i - theta * s, i

        def step_adjoint(d, state, s, x, p):
            (dv, di), (v, i), (beta, alpha, theta) = d, state, p
            di = di + dv
            if to_zero:
                return (
                    (beta * (one - s) * dv, alpha * di),
                    -kept * beta * v * dv,
                    di,
                    (v * (one - s) * dv, i * di, one - one),
                )
            return (beta * dv, alpha * di), -kept * theta * dv, di, (v * dv, i * di, -s * dv)

        def potential(state, p):
            return state[0] - p[2]

        def potential_adjoint(du, state, p):
            return (du, one - one), (one - one, one - one, -du)

        return Equations.of(step, step_adjoint, potential, potential_adjoint)

"""SpikingNetwork: what `to_spiking` gives; runs images, step by step or one after the other."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nsim.checks import number, whole
from nsim.convert.lower import Population, analog_part, detached, reads_images, without_spikes
from nsim.convert.neurons import Code
from nsim.convert.origin import Origin
from nsim.convert.simulate import Engine, Schedule, Workspace
from nsim.errors import ParameterError, ShapeError
from nsim.kernels import threads
from nsim.kernels.jit import padded

BLOCK_BYTES = 1 << 24  # of the analog drive of the images that are made ready together


class Prediction(NamedTuple):
    """classes int64 [B], and the number of steps after which each was decided, int64 [B]."""

    classes: np.ndarray
    steps: np.ndarray


class Activity(NamedTuple):
    """What populations sent for a batch of images, by name.

    values : {name: float32 [B, *shape]}, the activations that the spikes stand for, in the network's units
    spikes : {name: int64 [B]}, number of spikes of each image, those of a burst one by one; of relays and pools too
    synops : {name: int64 [B]}, synaptic operations that these spikes caused: weights added because of a spike
    logits : float32 [B, steps, classes], as of a call
    graded_macs : {name: int64 [B]}, of linear nodes that another linear node reads: real numbers times a weight, since
        what came in during a step is sent on as it is, without a neuron
    """

    values: dict
    spikes: dict
    synops: dict
    logits: np.ndarray
    graded_macs: dict


class SpikingNetwork:
    """A converted network; see `to_spiking`.

    shape : of an image, (C, H, W) or (N,); shapes : {name of a node of the network: (H, W, C) or (N,)}
    code : the neuron's code; thresholds : {name of a ReLU or of a raised pool: float64 [C] or [1]}
    populations : in the order in which they are computed; see `nsim.convert.lower.Population`
    shifts : {name of a ReLU: float64 [C]}, corrections of its bias, empty without `correct_bias`
    origin : nsim.convert.origin.Origin, the network as it was when it was converted
    first_answer : int, steps until the first complete readout: (n + 1) K for n layers of bistable neurons
    """

    def __init__(
        self, populations: list[Population], code: Code, thresholds: dict, shapes: dict, shifts: dict, origin: Origin
    ):  # fmt: skip
        self.populations, self.code, self.thresholds, self.shapes = populations, code, thresholds, shapes
        self.shifts, self.origin = shifts, origin
        self.shape = _outside(next(iter(shapes.values())))
        self.engine = Engine(populations, code)
        self.first_answer = code.first_answer(populations[-1].depth)
        self._spiking = {p.holds: p.floor for p in populations if p.holds is not None}
        driven = [p for p in populations if p.drive is not None]
        copies = {}
        self._seen = {
            p: detached(p.drive, self._spiking, copies) for p in driven if reads_images(p.drive, self._spiking)
        }
        self._constant = {p: self._drive(p, p.drive) for p in driven if p not in self._seen} | {
            p: np.zeros((1, padded(p.size)), np.float32) for p in populations if p.kind == "relay"
        }

    def _drive(self, p, node, images=None):
        """Analog drive in units of the thresholds, [1 or B, N padded]."""
        value = without_spikes(node, self._spiking, self.shapes, images)
        if p.kind == "neuron":  # a readout may have the name of a ReLU, but not its shift
            value = value + self.shifts.get(p.name, 0.0) + p.floor
        value = value / p.scale
        full = np.full((len(value), padded(p.size)), -2, np.float32)  # whatever they start with, no padding fires
        full[:, : p.size] = value.reshape(len(value), -1)
        return full

    @property
    def populations_of_images(self) -> list[Population]:
        """Those that the images drive."""
        return list(self._seen)

    def analog_nodes(self) -> set[str]:
        """Names of the nodes that are computed from the images without spikes, before the first layer."""
        return set().union(*(analog_part(node, self._spiking) for node in self._seen.values()))

    # Running

    def __call__(self, images, steps: int) -> np.ndarray:
        """The readout as it stands after each step.

        Parameters
        ----------
        images : float32 [B, C, H, W], normalised as the network expects; constant over time
        steps : int

        Returns
        -------
        float32 [B, steps, classes] (or [B, steps, C, H, W]): the mean over the stages complete, zero before the first

        Raises
        ------
        ShapeError, ParameterError
            If the images do not fit the network, or steps is not a whole number of at least 1.
        """
        images, steps = self._checked(images, steps=steps), int(steps)
        schedule = Schedule(self.code, self.populations, steps)
        out = np.empty((len(images), steps, self.populations[-1].size), np.float32)

        def visit(sample, came, space, first, last):
            out[sample, first:last] = came

        self._run(images, schedule, visit)
        for sample in range(len(out)):
            out[sample] = _read(out[sample], schedule.ends)
        return self._logits(out)

    def predict(
        self, images, steps: int, *, margin: float | None = None, every: int = 4, earliest: int = 1
    ) -> Prediction:
        """Classes, with an early end for images whose decision is clear.

        Parameters
        ----------
        images, steps : see `__call__`
        margin : float, optional
            An image is decided at the first step after which the largest readout leads the second by at least this
            much, and is simulated no further; else at the last step. Choose it on calibration data, with `earliest`.
        every : int
            Steps between two looks at whether an image can end; whole cycles.
        earliest : int
            First step after which an image may be decided. The readout of rate codes (`IF`, `Phase`) is a mean over the
            steps so far: over few of them one class leads by chance, and by more in deeper networks, where a margin
            without `earliest` decides wrongly or ends hardly anything.

        Raises
        ------
        ParameterError
            If the readout is no vector of at least 2 classes, margin, every or earliest is not positive, or steps is
            below `first_answer` or `earliest`.
        """
        images = self._checked(images, "predict", steps=steps, every=every, earliest=earliest)
        steps, every, earliest = int(steps), int(every), int(earliest)
        classes = self.populations[-1].size
        if len(self.populations[-1].shape) != 1 or classes < 2:
            raise ParameterError(f"predict: the readout has shape {self.populations[-1].shape}; expected classes")
        if margin is not None:
            number("predict", "margin", margin, above=0, most=math.inf, hint=", or None")
        if steps < self.first_answer:
            raise ParameterError(f"predict: steps = {steps}; the first complete answer comes after {self.first_answer}")
        if steps < earliest:
            raise ParameterError(f"predict: earliest = {earliest}; the run ends before, after steps = {steps}")
        schedule = Schedule(self.code, self.populations, steps, every=None if margin is None else every)
        may_end = np.arange(1, steps + 1) >= earliest  # before the first answer all readouts are 0
        came = {}  # of the images that are under way
        found = Prediction(np.zeros(len(images), np.int64), np.full(len(images), steps, np.int64))

        def visit(sample, part, space, first, last):
            came.setdefault(sample, np.zeros((steps, classes), np.float32))[first:last] = part
            if margin is None and last < steps:
                return False
            readout = _read(came[sample][:last], schedule.ends[:last])
            decided = last
            if margin is not None:
                top = np.partition(readout[first:], -2, axis=1)[:, -2:]
                clear = np.flatnonzero(may_end[first:last] & (top[:, 1] - top[:, 0] >= margin))
                if len(clear) == 0 and last < steps:
                    return False
                decided = first + clear[0] + 1 if len(clear) else last
            found.classes[sample], found.steps[sample] = readout[decided - 1].argmax(), decided
            del came[sample]
            return True

        self._run(images, schedule, visit)
        return found

    def stream(self, images) -> np.ndarray:
        """Images one after the other, a new one every K steps: readout [B, classes] (or [B, C, H, W]) after (n + B) K
        steps in all.

        For `Bistable(pipelined=True)`: with two membranes a layer takes in an image while it sends the one before.

        Raises
        ------
        ParameterError
            If the neurons have one membrane.
        """
        if not getattr(self.code, "pipelined", False):
            raise ParameterError(f"stream: {self.code} cannot; convert with convert.Bistable(phases=K, pipelined=True)")
        images, end = self._checked(images), self.populations[-1]
        cycle, depth = self.code.cycle, end.depth
        out = np.zeros((len(images), end.size), np.float32)
        for start, drives in self._blocks(images):
            size = min(len(images) - start, self._block)
            parts = np.array_split(np.arange(size), min(size, threads.get_num_threads()))

            def work(first, last, start=start, drives=drives, parts=parts):
                for part in parts[first:last]:
                    schedule = Schedule(
                        self.code, self.populations, (depth + len(part)) * cycle, stream=len(part), every=cycle
                    )
                    space, own = Workspace(self.engine, schedule), drives | {p: drives[p][part] for p in self._seen}
                    for begin, stop in schedule.chunks():
                        came = space.advance(own, begin, stop)
                        if begin >= depth * cycle:
                            out[start + part[begin // cycle - depth]] = came.sum(axis=0)

            threads.over(work, len(parts))
        return self._logits(out)

    def activity(self, images, steps: int) -> Activity:
        """What each population sends in a run: decoded values, spikes, operations. See `Activity`.

        The value of a layer is the mean over its complete stages.
        """
        images, steps = self._checked(images, steps=steps), int(steps)
        schedule = Schedule(self.code, self.populations, steps)
        sending = [p for p in self.populations if p.kind in ("neuron", "relay", "pool")]
        values = {p: np.zeros((len(images), p.size)) for p in sending}
        spikes = {p: np.zeros(len(images), np.int64) for p in sending}
        passing = [p for p in self.populations if p.kind == "sum"]  # values that go on, graded, without a neuron
        operations = {p: np.zeros(len(images), np.int64) for p in [*sending, *passing]}
        readers = [(source, link) for q in self.populations if q.kind != "pool" for source, link in q.edges]
        fan_out = {p: sum(link.fan_out for source, link in readers if source is p) for p in operations}
        whole = steps // self.code.cycle * self.code.cycle  # a stage that is not complete has no value
        out = np.empty((len(images), steps, self.populations[-1].size), np.float32)

        def visit(sample, came, space, first, last):
            out[sample, first:last] = came
            for p in operations:
                events, size = space.events[p], schedule.steps[p.depth].size[first:last]
                ends = events.indptr[: last - first + 1]
                indices, sizes = events.indices[: ends[-1]], np.repeat(size, np.diff(ends))
                sent = events.values[: ends[-1]] if len(events.values) else sizes
                # A gate may pass a part of a spike on, where windows overtake each other: one spike as well.
                count = np.maximum(1, np.rint(np.abs(sent) / sizes).astype(np.int64)) if p in spikes else 1
                operations[p][sample] += np.sum(count * np.broadcast_to(fan_out[p], p.size)[indices])
                if p in spikes:
                    spikes[p][sample] += count.sum()
                    complete = ends[min(last, max(whole, first)) - first]
                    values[p][sample] += np.bincount(indices[:complete], sent[:complete], p.size)

        self._run(images, schedule, visit)
        for sample in range(len(out)):
            out[sample] = _read(out[sample], schedule.ends)
        decoded = {}
        for p in sending:
            stages = max(1, self.code.sent(steps, p.depth))
            value = values[p].reshape(len(images), *p.shape) * (p.scale / stages)
            decoded[p.name] = (value - p.floor).astype(np.float32)
        spikes = {p.name: spikes[p] for p in sending}
        synops, graded = ({p.name: operations[p] for p in some} for some in (sending, passing))
        return Activity(decoded, spikes, synops, self._logits(out), graded)

    def _logits(self, out):
        """The readout [..., N] in the shape of the network's output, where channels come first."""
        shape = self.populations[-1].shape
        out = out.reshape(*out.shape[:-1], *shape)
        return out if len(shape) == 1 else np.ascontiguousarray(np.moveaxis(out, -1, -3))

    def _drives(self, images):
        turned = images if images.ndim == 2 else np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        return self._constant | {p: self._drive(p, node, turned) for p, node in self._seen.items()}

    def _run(self, images, schedule, visit):
        """Each image through all chunks, over threads; `visit` sees what came into the readout and may end an image."""
        free = []
        for start, drives in self._blocks(images):

            def work(first, last, start=start, drives=drives):
                space = free.pop() if free else Workspace(self.engine, schedule)
                for k in range(first, last):
                    own = drives | {p: drives[p][k : k + 1] for p in self._seen}
                    space.begin()
                    for begin, stop in schedule.chunks():
                        if visit(start + k, space.advance(own, begin, stop), space, begin, stop):
                            break
                free.append(space)

            threads.over(work, min(len(images) - start, self._block))

    @property
    def _block(self):
        """How many images have their drives computed at once."""
        size = max([p.size for p in self._seen], default=1) * 4
        return max(threads.get_num_threads(), BLOCK_BYTES // size)

    def _blocks(self, images):
        """First image and drives of one block of images after the other."""
        for start in range(0, len(images), self._block):
            yield start, self._drives(images[start : start + self._block])

    def _checked(self, images, where="a converted network", **numbers):
        """Images as an array, checked like these numbers of steps."""
        whole(where, **{name: (value, 1) for name, value in numbers.items()})
        images = np.asarray(images)
        if images.dtype != np.float32:
            raise ParameterError(
                f"images have dtype {images.dtype}, expected float32: normalise them as the network expects and pass "
                "images.astype(np.float32)"
            )
        if images.ndim < 2 or len(images) == 0 or images.shape[1:] != self.shape:
            raise ShapeError(
                f"images of shape {images.shape}: this network was converted for [batch, "
                f"{', '.join(map(str, self.shape))}] and at least one image; its neurons lie in pictures of fixed size"
            )
        if not np.isfinite(images).all():
            raise ParameterError("the images hold NaN or infinity")
        return images

    def __repr__(self):
        kinds = [p.kind for p in self.populations]
        return (
            f"SpikingNetwork({self.code}, {kinds.count('neuron')} layers of "
            f"{sum(p.size for p in self.populations if p.kind == 'neuron'):,} neurons, {kinds.count('relay')} relays, "
            f"first answer after {self.first_answer} steps)"
        )


def _outside(shape):
    """Of a picture inside of a graph: as a user gives it, channels first."""
    return tuple(shape) if len(shape) == 1 else (shape[2], *shape[:2])


def _read(came, ends):
    """From what came in during each step the readout as it stands: the mean over the stages that are complete."""
    total = came.cumsum(axis=0, dtype=np.float64)
    done = ends.cumsum()
    last = np.maximum.accumulate(np.where(ends, np.arange(len(ends)), -1))
    value = total[last] / np.maximum(done, 1)[:, None]
    value[last < 0] = 0
    return value

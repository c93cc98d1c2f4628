"""The exceptions of nsim. Each message names the offending value and the way out."""


class NsimError(Exception):
    """Base class of every exception that nsim raises on its own account."""


class ShapeError(NsimError, ValueError):
    """An array or a batch of events has the wrong shape or axis order."""


class EventError(NsimError, ValueError):
    """Events lie outside their unit, time or sample range."""


class DataError(NsimError, ValueError):
    """A file is missing, truncated, of another format, or does not match its checksum."""


class MissingDataError(DataError):
    """A file of a data set lies nowhere and cannot be downloaded either."""


class ParameterError(NsimError, ValueError):
    """A parameter (time constant, threshold, weight, option) has an impossible value."""


class GradientError(NsimError, RuntimeError):
    """A backward pass was asked for that the tape cannot make."""


class TrainingError(NsimError, RuntimeError):
    """Training cannot go on: a loss or a weight is no longer finite."""


class DeviceError(NsimError, RuntimeError):
    """A device was asked for that this machine or installation does not have, or for something that it cannot do."""


class StepOverflow(NsimError, RuntimeError):
    """Lists on a device were too short for a training step. They have grown; make the step again, from its batch on."""


class MissingPackageError(NsimError, ImportError):
    """A package that only some of nsim needs is not installed; the message has the line that installs it."""


class EventWarning(UserWarning):
    """Events were left out of a batch, are of a file that cannot be verified, or never reach a layer; the message says
    which and why."""

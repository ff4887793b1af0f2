"""The errors that a user can cause; hosts show their text as it is.

Each message says what was given, what was expected and what to do.
"""


class NeuralStyleError(Exception):
    """Base of every error below."""


class ArgumentError(NeuralStyleError, ValueError):
    """An argument is out of its range."""


class ModelError(NeuralStyleError):
    """A model file is missing, truncated or foreign, or no model has the style's name."""


class DeviceError(NeuralStyleError):
    """A device or precision was asked for and is not there."""


class MediaError(NeuralStyleError):
    """An input that can't be read, or an output that can't be written."""


class ProcessError(NeuralStyleError):
    """This process can't compute any more: it ends, or it is a fork of one that has computed."""

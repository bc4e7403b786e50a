"""Errors that a user can act on. The command line turns each into one line and exit code 2."""

from __future__ import annotations


class OnnxGhnError(Exception):
    """Base of every error that names its cause and remedy; never shown with a traceback."""


class ModelError(OnnxGhnError):
    """The model can't be read, or holds something that the tool refuses. Names file and node."""


class OutputError(OnnxGhnError):
    """The output can't be written (exists, no permission, no space). Nothing was left behind."""


class ArchiveError(OnnxGhnError):
    """A hypernetwork archive is missing, damaged, too new, or not one at all."""


class OptionError(OnnxGhnError):
    """An option or a combination of options that makes no sense for this model."""


class DeviceError(OptionError):
    """The device that was asked for is not there, or does not start."""


class MissingDependencyError(OnnxGhnError):
    """An optional package is needed; the message holds the command that installs it."""


class UnsupportedOperatorError(OnnxGhnError):
    """The differentiable interpreter has no such operator at this opset version."""

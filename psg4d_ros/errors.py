"""Errors of psg4d_ros: each message says what is wrong, the value, and what would be right."""


class Psg4dError(Exception):
    """Base of all errors raised on purpose; the node catches it in one place per frame."""


class ConfigError(Psg4dError):
    """A parameter, recipe or configuration value is unknown, of the wrong type or out of range."""


class ContextError(ConfigError):
    """A text does not fit the language model's context."""


class CloudError(Psg4dError):
    """A PointCloud2 message breaks the standard or lacks what is needed."""


class CheckpointError(Psg4dError):
    """A checkpoint folder is incomplete, altered, unsafe or of another version."""


class ExportError(Psg4dError):
    """An exported graph or engine does not agree with the trained modules."""


class DatasetError(Psg4dError):
    """A bag, recording or annotation file cannot be read as what it claims to be."""


class TransformError(Psg4dError):
    """A coordinate transform is missing, too old, or not a rigid transform."""

"""The whole error model.

`OmniError` is what a user can mend: its message names the file, line or field and the remedy, and the CLI prints it
without a traceback and exits 2. Everything else is a bug and keeps its traceback.

  ConfigError      a recipe, override or option is wrong
  DataError        a query file, media file or manifest is missing, broken or inconsistent; TooLongError: a medium is too long
  CheckpointError  a model directory is missing, damaged or unsafe to load
  EngineError      whoever answers could not answer (never scored as an answer)
  TrainingError    a start-up or running check of a trainer failed (no audio gradient, NaN loss)
  StorageError     a disk or bucket refused (full, no permission)
  StepBusy         another process works on the same output
  ClusterError     a cluster refused, or what was started on it failed
"""


class OmniError(Exception):
    """Base of everything a user can mend."""


class ConfigError(OmniError):
    pass


class DataError(OmniError):
    pass


class TooLongError(DataError):
    """A medium is longer than the model takes; nothing else is wrong with it."""


class CheckpointError(OmniError):
    pass


class EngineError(OmniError):
    pass


class TrainingError(OmniError):
    pass


class StorageError(OmniError):
    pass


class StepBusy(OmniError):
    pass


class ClusterError(OmniError):
    pass

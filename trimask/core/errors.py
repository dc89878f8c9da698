"""The error tree: every failure a user can cause, in one place.

    TrimaskError
    ├── UsageError          a wrong option, override, name or combination
    ├── DataError           a source, record or prepared set that cannot be used
    │   └── RecordError     one bad record; collected into `rejected.jsonl`
    ├── ArtifactError       a checkpoint or tokenizer that is missing, damaged or does not fit
    └── TrainingError       a run that must stop (run folder in use, no memory)
        └── DivergedError   its loss or a gradient is not finite

Each message says what was wrong, where (file, record, field), and what to do. The command line
prints the message alone and exits with the class's `exit_code`.
"""


class TrimaskError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class UsageError(TrimaskError, ValueError):
    """The request itself is wrong: an option, an override, a name, a combination."""

    exit_code = 2


class DataError(TrimaskError, ValueError):
    """A source or a prepared data set cannot be used."""

    exit_code = 3


class RecordError(DataError):
    """One record cannot be decoded or lacks what it must have.

    Readers raise it (or yield it) with the file, the record's position or name, and the reason, so
    that `prepare` can write the record to `rejected.jsonl` and go on.
    """

    def __init__(self, file: str, record: str | int, reason: str):
        super().__init__(f"{file}, record {record}: {reason}")
        self.file, self.record, self.reason = str(file), record, reason

    def __reduce__(self):
        return type(self), (self.file, self.record, self.reason)


class ArtifactError(TrimaskError):
    """A checkpoint, tokenizer or run folder is missing, damaged or of another make."""

    exit_code = 4


class TrainingError(TrimaskError, RuntimeError):
    """A run had to stop; its message names the step and the file that helps to find out why."""

    exit_code = 5


class DivergedError(TrainingError):
    """The loss or a gradient of a run is not finite."""

"""Errors a user can mend, each with its documented exit code.

The message is one sentence: what is wrong, where (file, line, key), and what to do.
On the command line such an error prints as that sentence alone; `--debug` adds the traceback.
"""

REQUEUE_EXIT_CODE = 75
"""Exit code of a run that saved its state and asks its launcher to start it again (EX_TEMPFAIL)."""


class MeditronError(Exception):
    """Base of all errors that a user can mend."""

    exit_code = 1


class ConfigError(MeditronError):
    """A configuration value is unknown, impossible, or contradicts another one."""

    exit_code = 2


class InputError(MeditronError):
    """An input file or folder is missing, unreadable, or not of the expected form."""

    exit_code = 3


class ManifestError(MeditronError):
    """A stage's output lacks its manifest, or no longer matches it."""

    exit_code = 4


class CheckpointError(MeditronError):
    """No valid checkpoint where one is needed, or it does not fit this run."""

    exit_code = 5


class DiskFullError(MeditronError):
    """The disk or the quota was used up while writing; what was finished before is intact."""

    exit_code = 6


class QuarantineError(MeditronError):
    """More records were damaged than the configured share allows."""

    exit_code = 7


class TrainingError(MeditronError):
    """Training cannot go on: non-finite losses in a row, or a rank that died."""

    exit_code = 8


class ParityError(MeditronError):
    """A converted model does not compute what the original computes."""

    exit_code = 9


class EnvironmentMissingError(MeditronError):
    """This machine lacks the software or hardware that the recipe asks for."""

    exit_code = 10


class StageError(MeditronError):
    """A stage of `meditron run` failed; its own message precedes this one."""

    exit_code = 11


EXIT_CODES: dict[int, str] = {
    0: "success",
    1: "an error of no other kind; run again with --debug for the traceback",
    **{
        cls.exit_code: (cls.__doc__ or "").strip().rstrip(".")
        for cls in (
            ConfigError,
            InputError,
            ManifestError,
            CheckpointError,
            DiskFullError,
            QuarantineError,
            TrainingError,
            ParityError,
            EnvironmentMissingError,
            StageError,
        )
    },
    REQUEUE_EXIT_CODE: "state saved after a signal or a trigger; start the same command again to go on",
    130: "interrupted from the keyboard",
}
"""Every exit code of the command line, with its meaning."""

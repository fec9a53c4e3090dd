"""The error tree of Nightschool. Every error that a person may see is one of these.

    NightschoolError
    +-- SettingsError          a setting is missing, unknown or out of range
    +-- StoreError             the database cannot be used as asked
    |   +-- UnknownTurn
    |   +-- NotYourTurn
    |   +-- UnknownUser
    |   +-- UserExists
    +-- QuestionError          a question that cannot be asked (empty, too long)
    +-- DocumentError          a document or questions file that cannot be read
    +-- ModelError             a base model that is not there or is not what it should be
    +-- AdapterError           an adapter that may not serve
    |   +-- UnknownAdapter
    |   +-- CorruptAdapter
    +-- EngineError            the engine failed during an answer
    |   +-- QueueFull
    +-- RunError               a night that cannot start or go on
        +-- NightInProgress

A constructor takes the datum and builds the sentence: what, which value, what to do.
"""

from __future__ import annotations


class NightschoolError(Exception):
    """Root of all errors with a sentence meant for a person."""


class SettingsError(NightschoolError):
    """One or more settings are wrong; the message holds one line for each."""


class StoreError(NightschoolError):
    """The database cannot be used as asked."""


class UnknownTurn(StoreError):
    """A turn that is not in the store."""

    def __init__(self, turn_id: str) -> None:
        super().__init__(f"There is no answer with the id {turn_id!r}: reload the page and rate one that it shows.")
        self.turn_id = turn_id


class NotYourTurn(StoreError):
    """A turn that belongs to somebody else."""

    def __init__(self, turn_id: str, user: str) -> None:
        super().__init__(f"The answer {turn_id!r} was not given to {user!r}: only who asked can rate it.")
        self.turn_id = turn_id


class UnknownUser(StoreError):
    """A user that is not in the store."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no user {name!r}: see `nightschool users list`.")


class UserExists(StoreError):
    """A user name that is taken."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The user {name!r} exists already: choose another name.")


class QuestionError(NightschoolError):
    """A question that cannot be asked."""


class DocumentError(NightschoolError):
    """A document, or a file of questions, that cannot be read."""


class ModelError(NightschoolError):
    """A base model that is not there, or not what it should be."""


class AdapterError(NightschoolError):
    """An adapter that may not serve."""


class UnknownAdapter(AdapterError):
    """A version that the registry does not name."""

    def __init__(self, version: str) -> None:
        super().__init__(f"There is no adapter {version!r}: see `nightschool adapters list`.")
        self.version = version


class CorruptAdapter(AdapterError):
    """An adapter folder whose content is not what its manifest says."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"The adapter {version} cannot serve: {reason}. What serves now stays in service.")
        self.version = version
        self.reason = reason


class EngineError(NightschoolError):
    """The engine failed during an answer."""


class QueueFull(EngineError):
    """More people wait for an answer than the queue holds."""

    def __init__(self, waiting: int) -> None:
        are = "question is" if waiting == 1 else "questions are"
        super().__init__(f"{waiting} {are} waiting already: try again in a minute.")
        self.waiting = waiting


class RunError(NightschoolError):
    """A night that cannot start or go on."""


class NightInProgress(RunError):
    """A second night while one is running."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"The night {run_id} is still running: wait for it, or `nightschool runs cancel {run_id}`.")
        self.run_id = run_id

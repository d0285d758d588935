"""The one error tree. The native core raises these too and defines none of its own.

SlipstreamError
├── InvalidRequestError (ValueError)     what a caller sent cannot be done; `param` names the field
│   ├── ContextLengthError               prompt longer than the context
│   ├── InvalidBatchError                a native batch breaks a rule of the context
│   ├── GrammarError                     a grammar that does not parse
│   ├── PreviousResponseError            the answer to continue from is not stored
│   ├── UnknownFieldError                a field a strict route does not know
│   ├── UnsupportedError                 part of an API that is not there yet
│   └── TemplateError                    a chat template that does not parse or refuses the messages
├── ModelNotFoundError (LookupError)     no such model
│   └── DownloadNotFoundError            no download of that id
├── ResponseNotFoundError (LookupError)  no stored answer of that id
├── TokenNotFoundError (LookupError)     no API token of that name
├── AuthenticationError                  no API token, or one that is not known here
├── AccessDeniedError                    known, and not allowed to do this
│   └── ForeignPageError                 a web page of another origin, or under a name that is not this server's
├── TooManyAttemptsError                 too many wrong tokens; `retry_after_s` says how long to wait
├── ModelLoadError                       a file that is no usable model; `path` names it
│   ├── DraftModelError                  a model that cannot draft for this target
│   └── InsufficientMemoryError          guardrails refuse the load: it would take too much memory
├── ContextCreateError                   the machine or the model refuses this context
├── DecodeError                          a step failed
│   ├── NoKVSlotError                    no room in the KV cache; memory is as before the call
│   ├── DecodeAborted                    stopped by abort()
│   └── ComputeError                     the backend failed
├── StateError                           a saved state that does not fit this model or context
├── ClosedError                          use after close(), or in a forked child
│   └── ModelUnloadedError               the model was unloaded while the request was under way
├── ContextBusyError                     two threads in one context
├── QueueFullError                       more waiting requests than the configured limit
├── EngineDiedError                      the engine process ended; the model is reloaded on the next request
├── DownloadError                        a model cannot be fetched: no network, refused, damaged on the way
├── StoreError                           what was to be kept on disk cannot be (disk full, no permission)
└── ServerError                          the server cannot start or cannot be reached
"""

from __future__ import annotations


class SlipstreamError(Exception):
    """Root of every error Slipstream raises on purpose.

    Args:
        message: What was wrong, the value, the allowed range and what to do.
        param: Name of the request field at fault, where there is one.
    """

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequestError(SlipstreamError, ValueError):
    """A caller sent something that cannot be done."""


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit the context."""


class InvalidBatchError(InvalidRequestError):
    """A batch breaks a rule of its context: token, position or sequence id out of range, or too many of them."""


class GrammarError(InvalidRequestError):
    """A grammar that does not parse."""


class PreviousResponseError(InvalidRequestError):
    """The answer a request wants to continue from is not stored."""


class UnknownFieldError(InvalidRequestError):
    """A field that a route which takes no others does not know."""


class UnsupportedError(InvalidRequestError):
    """Part of an API that this version does not have yet."""


class TemplateError(InvalidRequestError):
    """A chat template that does not parse, or refuses these messages."""


class ModelNotFoundError(SlipstreamError, LookupError):
    """No model goes by that name."""


class DownloadNotFoundError(ModelNotFoundError):
    """No download goes by that id."""


class ResponseNotFoundError(SlipstreamError, LookupError):
    """No stored answer goes by that id."""


class TokenNotFoundError(SlipstreamError, LookupError):
    """No API token goes by that name."""


class AuthenticationError(SlipstreamError):
    """A request without an API token where one is needed, or with one that is not known."""


class AccessDeniedError(SlipstreamError):
    """A request that is not allowed to do what it wants."""


class ForeignPageError(AccessDeniedError):
    """A request that a browser sent for a page of another origin, or to a name that is not this server's."""


class TooManyAttemptsError(SlipstreamError):
    """Too many wrong API tokens from one place.

    Args:
        retry_after_s: Seconds until another attempt is looked at.
    """

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            f"too many wrong API tokens from this address; try again in {retry_after_s:.0f} s"
        )
        self.retry_after_s = retry_after_s


class ModelLoadError(SlipstreamError):
    """A file that is no usable model.

    Args:
        message: The cause.
        path: The file.
    """

    def __init__(self, message: str = "", *, path: str = "", param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.path = path


class DraftModelError(ModelLoadError):
    """A model that cannot draft for this target: another vocabulary, or a memory that cannot drop drafts."""


class InsufficientMemoryError(ModelLoadError):
    """A load would take more memory than the guardrails of the settings allow."""


class ContextCreateError(SlipstreamError):
    """The machine or the model refuses a context of this shape."""


class DecodeError(SlipstreamError):
    """A step failed."""


class NoKVSlotError(DecodeError):
    """No room in the KV cache for the batch; memory is as it was before the call."""


class DecodeAborted(DecodeError):
    """The step was stopped by abort(); parts of the batch may have been computed."""


class ComputeError(DecodeError):
    """The backend failed in the middle of a step."""


class StateError(SlipstreamError):
    """A saved state that does not fit this model or context."""


class ClosedError(SlipstreamError):
    """Use of an object after close(), or in a process forked from the one that made it."""


class ModelUnloadedError(ClosedError):
    """The model was unloaded before the request had ended, or before it began."""


class ContextBusyError(SlipstreamError):
    """Two threads used one context at the same time."""


class QueueFullError(SlipstreamError):
    """More requests wait than the configured limit allows; try again later."""


class EngineDiedError(SlipstreamError):
    """The engine process ended in the middle of a request; the next request reloads the model."""


class DownloadError(SlipstreamError):
    """A model cannot be fetched: the hub cannot be reached or refuses, or what came is not what it promised."""


class StoreError(SlipstreamError):
    """Something that was to be kept on disk cannot be: the disk is full, or the file cannot be written."""


class ServerError(SlipstreamError):
    """The server cannot start (port taken, bad address) or cannot be reached."""


def by_name(name: str) -> type[SlipstreamError]:
    """Return the error class called `name`, SlipstreamError for an unknown one (errors that crossed a process)."""
    found = globals().get(name)
    return (
        found if isinstance(found, type) and issubclass(found, SlipstreamError) else SlipstreamError
    )

"""Why a request is refused or fails. The service layer turns each class into one gRPC status."""

# The most characters that an error repeats of what a caller sent. gRPC limits the size of metadata, where errors
# travel.
MAX_QUOTED = 200


def clipped(text: str) -> str:
    """The text, cut to MAX_QUOTED characters."""
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 1]}…"


class RequestError(Exception):
    """A request gets no answer. Its message goes to the caller, so it has no path and no stack trace."""


class InvalidArgument(RequestError):
    """A field breaks a limit.

    field: the field's name in the wire contract, such as `options.num_beams`.
    description: the limit and the value that broke it.
    """

    def __init__(self, field: str, description: str) -> None:
        self.field = field
        self.description = clipped(description)
        super().__init__(f"{field}: {self.description}")


class UnknownModel(RequestError):
    """No model of that name is served."""

    def __init__(self, name: str, served: list[str]) -> None:
        self.name = clipped(name)
        super().__init__(f"model {self.name!r} is not served; served: {clipped(', '.join(served))}")


class WrongTask(RequestError):
    """The model is served, but its checkpoint cannot do this task."""


class MessageTooLarge(RequestError):
    """The request message has more bytes than the transport takes."""


class Unauthenticated(RequestError):
    """The call carries no valid token."""


class Overloaded(RequestError):
    """There is no room, or no time before the deadline. retry_after: seconds after which another try makes sense."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(RequestError):
    """The server is loading, draining or broken, or lacks the revision or program that the request needs.

    retry_after: seconds after which another try makes sense.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(RequestError):
    """The caller's deadline passed."""


class Cancelled(RequestError):
    """The caller went away."""


class DeviceFault(RequestError):
    """The device failed, or computed NaN."""

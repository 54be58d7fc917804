"""Why a request is refused or fails. The service layer turns each class into one gRPC status."""


class RequestError(Exception):
    """A request that gets no answer. The message is for the caller: no text of theirs, no path, no stack trace."""


class InvalidArgument(RequestError):
    """A field breaks a limit.

    field: the field's name in the wire contract, such as `options.num_beams`.
    description: the limit and the value that broke it.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class UnknownModel(RequestError):
    """No model of that name is served."""

    def __init__(self, name: str, served: list[str]) -> None:
        super().__init__(f"model {name!r} is not served; served: {', '.join(served)}")
        self.name = name


class WrongTask(RequestError):
    """The model is served, but cannot do this."""


class Unauthenticated(RequestError):
    """The call carries no valid token."""


class Overloaded(RequestError):
    """There is no room, or no time before the deadline. retry_after: seconds after which there may be."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(RequestError):
    """The server is loading, draining or broken. retry_after: seconds after which another try makes sense."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(RequestError):
    """The caller's deadline passed."""


class Cancelled(RequestError):
    """The caller went away."""


class DeviceFault(RequestError):
    """The device failed, or computed NaN."""

"""Turns errors into google.rpc.Status messages, which have a code, a message and details, for every transport."""

from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from bart_server.scheduling import errors

# The google.rpc.Code of each class of errors; other errors are INTERNAL.
CODES: dict[type[Exception], int] = {
    errors.InvalidArgument: code_pb2.INVALID_ARGUMENT,
    errors.UnknownModel: code_pb2.NOT_FOUND,
    errors.WrongTask: code_pb2.FAILED_PRECONDITION,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.MessageTooLarge: code_pb2.RESOURCE_EXHAUSTED,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.Cancelled: code_pb2.CANCELLED,
    errors.DeviceFault: code_pb2.INTERNAL,
}


def status(error: Exception) -> status_pb2.Status:
    """The google.rpc.Status of an error. An error that is no RequestError becomes INTERNAL, without its message."""
    code = code_number(error)
    text = str(error) if isinstance(error, errors.RequestError) else "internal error"
    return status_pb2.Status(code=code, message=text, details=[pack(detail) for detail in details(error)])


def code_of(error: Exception) -> str:
    """The name of an error's google.rpc.Code, such as INVALID_ARGUMENT."""
    name: str = code_pb2.Code.Name(code_number(error))
    return name


def code_number(error: Exception) -> int:
    """The google.rpc.Code of an error, by its class or the nearest base class that has a code."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), code_pb2.INTERNAL)


def details(error: Exception) -> list[message.Message]:
    """The details of an error: the field that is wrong, the model that is unknown, or when to try again."""
    match error:
        case errors.InvalidArgument():
            violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
            return [error_details_pb2.BadRequest(field_violations=[violation])]
        case errors.UnknownModel():
            return [error_details_pb2.ResourceInfo(resource_type="bart.v1.Model", resource_name=error.name)]
        case errors.Overloaded() | errors.Unavailable():
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(error.retry_after * 1000))
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []


def pack(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed

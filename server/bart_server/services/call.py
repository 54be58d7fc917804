"""What is known of the call in progress, for its log line and its trace. Never texts, tokens or labels."""

import contextvars
from typing import Any

# The guard makes a new dictionary for every call; the service adds model, token counts and times.
record: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("record")


def note(**facts: Any) -> None:
    """Adds facts to the call in progress."""
    if (found := record.get(None)) is not None:
        found.update(facts)

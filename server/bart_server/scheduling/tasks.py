"""The tasks of an engine. Each is a class, and an object of it is the input of one request.

The services make these objects and the engines read them. The scheduler does not look at them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Input:
    """The input of any task. source: the token ids that the encoder reads, special tokens included."""

    source: Sequence[int]


@dataclass(frozen=True)
class Generate(Input):
    """Generate sequences from the source.

    options: of generation, under Hugging Face's names; an option that is absent has the checkpoint's default. stream:
    whether the caller wants tokens as soon as they are final.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False


@dataclass(frozen=True)
class Classify(Input):
    """Classify the source, a text and a hypothesis: does the text contradict or entail the hypothesis?"""


@dataclass(frozen=True)
class Score(Input):
    """Compute the log-probability of each token of a target. labels: its token ids; -100 is padding and not scored."""

    labels: Sequence[int] = ()


Task = type[Input]


def task_name(task: Task) -> str:
    """The task's name in messages, such as "generate"."""
    return task.__name__.lower()

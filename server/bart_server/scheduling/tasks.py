"""What an engine can be asked for: one class for each task, named where a model's tasks are listed.

Services make these and engines read them. The scheduler knows none of them, only the two kinds of work, contract.Kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Input:
    """source: the token ids that the encoder reads, special tokens included."""

    source: Sequence[int]


@dataclass(frozen=True)
class Generate(Input):
    """Sequences that follow from the source.

    options: under Hugging Face's names; an absent one has the checkpoint's default. stream: whether the caller wants
    tokens before the end.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False


@dataclass(frozen=True)
class Classify(Input):
    """Whether the source, a text and a hypothesis, is an entailment."""


@dataclass(frozen=True)
class Score(Input):
    """The log-probability of each token of a target. labels: its token ids; -100 is padding and not scored."""

    labels: Sequence[int] = ()


Task = type[Input]


def task_name(task: Task) -> str:
    """The task's name in messages, such as "generate"."""
    return task.__name__.lower()

"""What calls return: plain frozen values."""

from dataclasses import dataclass

from bart_proto.v1 import bart_pb2 as pb


@dataclass(frozen=True)
class Usage:
    """Token counts, times in seconds, and what answered."""

    input_tokens: int
    output_tokens: int
    truncated: bool
    queue_seconds: float
    compute_seconds: float
    model: str
    model_revision: str


@dataclass(frozen=True)
class Sequence:
    """finish_reason: "stop" (the model ended it) or "length" (the limit did)."""

    text: str
    token_ids: tuple[int, ...]
    score: float
    finish_reason: str


@dataclass(frozen=True)
class Window:
    """text[begin:end] was summarized by itself."""

    begin: int
    end: int
    input_tokens: int
    summary: Sequence


@dataclass(frozen=True)
class Summary:
    """text: the windows' summaries, joined by a space. windows: one, unless a long input was split."""

    text: str
    windows: tuple[Window, ...]
    usage: Usage


@dataclass(frozen=True)
class Generated:
    """sequences: best first."""

    sequences: tuple[Sequence, ...]
    usage: Usage

    @property
    def text(self) -> str:
        return self.sequences[0].text


@dataclass(frozen=True)
class Scored:
    """How likely a target is. labels: its tokens. log_probs: of each, in nats; 0 where the label is -100."""

    labels: tuple[int, ...]
    log_probs: tuple[float, ...]
    usage: Usage

    @property
    def log_prob(self) -> float:
        """Of the whole target: the sum."""
        return sum(self.log_probs)


@dataclass(frozen=True)
class Label:
    label: str
    score: float


@dataclass(frozen=True)
class Labels:
    """labels: best first."""

    labels: tuple[Label, ...]
    usage: Usage


REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}


def usage(message: pb.Usage) -> Usage:
    return Usage(
        message.input_tokens,
        message.output_tokens,
        message.truncated,
        message.queue_time.ToNanoseconds() / 1e9,
        message.compute_time.ToNanoseconds() / 1e9,
        message.model,
        message.model_revision,
    )


def sequence(message: pb.Sequence) -> Sequence:
    reason = REASONS.get(message.finish_reason, "unknown")
    return Sequence(message.text, tuple(message.token_ids), message.score, reason)


def summary(message: pb.SummarizeResponse) -> Summary:
    windows = tuple(Window(w.begin, w.end, w.input_tokens, sequence(w.summary)) for w in message.windows)
    return Summary(message.text, windows, usage(message.usage))


def generated(message: pb.GenerateResponse) -> Generated:
    return Generated(tuple(map(sequence, message.sequences)), usage(message.usage))


def scored(message: pb.ScoreResponse) -> Scored:
    return Scored(tuple(message.labels.ids), tuple(message.log_probs), usage(message.usage))


def labels(message: pb.ClassifyZeroShotResponse) -> Labels:
    return Labels(tuple(Label(found.label, found.score) for found in message.labels), usage(message.usage))

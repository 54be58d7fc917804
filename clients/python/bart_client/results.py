"""What the client's methods return: frozen dataclasses made from the server's messages."""

from dataclasses import dataclass

from bart_proto.v1 import bart_pb2 as pb


@dataclass(frozen=True)
class Usage:
    """What an answer cost, and the model that gave it.

    input_tokens: tokens that the encoder read, special tokens included. output_tokens: generated tokens, with the end
    token and without the start token. truncated: whether the text was cut to fit. queue_seconds: from the request's
    arrival to the encoder. compute_seconds: from the encoder to the last token. model: its name. model_revision: a
    digest of its weights.
    """

    input_tokens: int
    output_tokens: int
    truncated: bool
    queue_seconds: float
    compute_seconds: float
    model: str
    model_revision: str


@dataclass(frozen=True)
class Sequence:
    """A generated sequence.

    text: without special tokens. token_ids: with the end token, without the start token. score: the sum of the
    log-probabilities divided by length**length_penalty, as transformers' sequences_scores. finish_reason: "stop" if the
    model generated the end token, "length" if the length limit was reached, "unknown" if the server names neither.
    """

    text: str
    token_ids: tuple[int, ...]
    score: float
    finish_reason: str


@dataclass(frozen=True)
class Window:
    """A part of the request's text that was summarized by itself: text[begin:end], counted in characters."""

    begin: int
    end: int
    input_tokens: int
    summary: Sequence


@dataclass(frozen=True)
class Summary:
    """A summary. text: the windows' summaries, joined by a space. windows: one, or several if a long text was split."""

    text: str
    windows: tuple[Window, ...]
    usage: Usage


@dataclass(frozen=True)
class Generated:
    """The result of a generation. sequences: as many as num_return_sequences asked for, the best one first."""

    sequences: tuple[Sequence, ...]
    usage: Usage

    @property
    def text(self) -> str:
        """The text of the best sequence."""
        return self.sequences[0].text


@dataclass(frozen=True)
class Scored:
    """How likely a target is. labels: its token ids. log_probs: of each label, in nats; 0 where the label is -100."""

    labels: tuple[int, ...]
    log_probs: tuple[float, ...]
    usage: Usage

    @property
    def log_prob(self) -> float:
        """The log-probability of the whole target, in nats: the sum of `log_probs`."""
        return sum(self.log_probs)


@dataclass(frozen=True)
class Label:
    """A label and its score between 0 and 1."""

    label: str
    score: float


@dataclass(frozen=True)
class Labels:
    """The result of a classification. labels: the best one first."""

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
    return Labels(tuple(Label(item.label, item.score) for item in message.labels), usage(message.usage))

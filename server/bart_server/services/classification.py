"""Implements bart.v1.ClassificationService.

Cheap checks come first: the model, the request's fields, places in the server, and after tokenization the tokens.
"""

import math
from collections.abc import Sequence
from operator import itemgetter

from bart_inference.tokenization import Window
from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.contract import Finish, Request
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Classify
from bart_server.services import conversion
from bart_server.services.backend import Backend
from bart_server.services.call import Call
from bart_server.services.limits import check_count, check_not_blank, check_policy, check_size

# A call's text is tokenized once for each label. All of that may be as long as this many texts of the largest size.
MAX_TEXTS = 8
TEMPLATE = "This example is {}."  # the hypothesis of a request without a template


class ClassificationService:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def classify_zero_shot(self, request: pb.ClassifyZeroShotRequest, call: Call) -> pb.ClassifyZeroShotResponse:
        served = self._backend.find(request.model, Classify, call)
        template = request.hypothesis_template or TEMPLATE
        self._check(request, template)
        truncate = request.long_input == pb.LONG_INPUT_TRUNCATE

        def plan() -> tuple[list[Window], list[Request]]:
            """A window and a request for each label: the text and the label's hypothesis, tokenized as a pair."""
            reader = served.reader()
            tokenize = reader.truncated if truncate else reader.whole
            windows: list[Window] = []
            requests: list[Request] = []
            for label in request.labels:
                window = tokenize(request.text, template.replace("{}", label))
                windows.append(window)
                requests += served.engine.requests(Classify(window.ids))
            return windows, requests

        label_characters = sum(map(len, request.labels))
        characters = label_characters + len(request.labels) * (len(request.text) + len(template))
        with self._backend.session(served, len(request.labels), call) as session:
            windows, requests = await self._backend.tokenize(session, plan, characters)
            answers = session.submit(requests, places=len(request.labels))
            finishes = await session.finish(answers)
        usage = conversion.usage(served, windows, finishes)
        call.note(**conversion.usage_facts(usage))
        labels = label_scores(request.labels, finishes, request.multi_label)
        return pb.ClassifyZeroShotResponse(labels=labels, usage=usage)

    def _check(self, request: pb.ClassifyZeroShotRequest, template: str) -> None:
        limits = self._backend.limits
        check_policy(request.long_input, chunk=False)
        check_size("text", request.text, limits.text_bytes)
        check_count("labels", len(request.labels), limits.labels)
        texts = len(request.labels) * len(request.text.encode())  # the text is tokenized once for each label
        limit = MAX_TEXTS * limits.text_bytes
        if texts > limit:
            raise InvalidArgument("labels", f"{len(request.labels)} times the text are {texts} bytes, at most {limit}")
        placeholders = template.count("{}")
        if placeholders != 1:
            raise InvalidArgument("hypothesis_template", f"holds {{}} {placeholders} times, once is needed")
        for index, label in enumerate(request.labels):
            check_not_blank(f"labels[{index}]", label)
            check_size(f"labels[{index}]", template.replace("{}", label), limits.label_bytes)


def label_scores(labels: Sequence[str], finishes: Sequence[Finish], multi_label: bool) -> list[pb.LabelScore]:
    """The labels with their scores, highest first.

    finishes: the answer for each label, whose values are the logits of contradiction and entailment.
    """
    logits = [(finish.values[0], finish.values[1]) for finish in finishes]
    scores = probabilities(logits, multi_label)
    # Before they are rounded to float32.
    ranked = sorted(zip(labels, scores, strict=True), key=itemgetter(1), reverse=True)
    return [pb.LabelScore(label=label, score=score) for label, score in ranked]


def probabilities(logits: Sequence[tuple[float, float]], multi_label: bool) -> list[float]:
    """Scores from (contradiction, entailment) logits, as in Hugging Face's zero-shot pipeline.

    A softmax of the entailment logits over the labels; with multi_label or a single label, for each label a softmax
    over its two logits.
    """
    if multi_label or len(logits) == 1:
        return [sigmoid(entailment - contradiction) for contradiction, entailment in logits]
    entailments = [entailment for _, entailment in logits]
    largest = max(entailments)
    weights = [math.exp(entailment - largest) for entailment in entailments]
    total = sum(weights)
    return [weight / total for weight in weights]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(min(700.0, -x)))  # math.exp(710) raises OverflowError

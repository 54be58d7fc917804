"""bart.v1.ClassificationService. Checks come in the order of their price: model, fields, places, tokens."""

import math
from collections.abc import Sequence

from bart_inference.tokenization import Window
from bart_proto.v1 import bart_pb2 as pb

from bart_server.scheduling.contract import Request
from bart_server.scheduling.errors import InvalidArgument
from bart_server.scheduling.tasks import Classify
from bart_server.services import conversion
from bart_server.services.backend import Backend
from bart_server.services.call import Call
from bart_server.services.limits import check_count, check_policy, check_size, check_visible

TEMPLATE = "This example is {}."


class ClassificationService:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def classify_zero_shot(self, request: pb.ClassifyZeroShotRequest, call: Call) -> pb.ClassifyZeroShotResponse:
        served = self._backend.find(request.model, Classify, call)
        template = request.hypothesis_template or TEMPLATE
        self._check(request, template)
        truncate = request.long_input == pb.LONG_INPUT_TRUNCATE

        def plan() -> tuple[list[Window], list[Request]]:
            reader = served.reader()
            fit = reader.truncated if truncate else reader.whole
            windows = [fit(request.text, template.replace("{}", label)) for label in request.labels]
            requests: list[Request] = []
            for window in windows:
                requests += served.engine.requests(Classify(window.ids))
            return windows, requests

        characters = sum(len(request.text) + len(template) + len(label) for label in request.labels)
        with self._backend.session(served, len(request.labels), call) as session:
            windows, requests = await self._backend.tokenize(session, plan, characters)
            answers = [session.submit(planned) for planned in requests]
            finishes = [await answer.finish() for answer in answers]
        scores = probabilities([(finish.values[0], finish.values[1]) for finish in finishes], request.multi_label)
        ranked = sorted(zip(request.labels, scores, strict=True), key=lambda pair: -pair[1])
        usage = conversion.usage(served, windows, finishes)
        call.note(**conversion.usage_facts(usage))
        labels = [pb.LabelScore(label=label, score=score) for label, score in ranked]
        return pb.ClassifyZeroShotResponse(labels=labels, usage=usage)

    def _check(self, request: pb.ClassifyZeroShotRequest, template: str) -> None:
        limits = self._backend.limits
        check_policy(request.long_input, chunk=False)
        check_size("text", request.text, limits.text_bytes)
        check_count("labels", len(request.labels), limits.labels)
        if template.count("{}") != 1:
            raise InvalidArgument("hypothesis_template", f"holds {template.count('{}')} times {{}}, 1 is needed")
        for index, label in enumerate(request.labels):
            check_visible(f"labels[{index}]", label)
            check_size(f"labels[{index}]", template.replace("{}", label), limits.label_bytes)


def probabilities(logits: Sequence[tuple[float, float]], multi_label: bool) -> list[float]:
    """Scores from (contradiction, entailment) logits, as Hugging Face's zero-shot pipeline has them."""
    if multi_label or len(logits) == 1:
        return [1 / (1 + math.exp(min(700.0, contradiction - entailment))) for contradiction, entailment in logits]
    largest = max(entailment for _, entailment in logits)
    weights = [math.exp(entailment - largest) for _, entailment in logits]
    return [weight / sum(weights) for weight in weights]

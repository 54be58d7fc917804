"""A server in int8 answers as `summarize` in int8 does in this process, and says what it computes in."""

import asyncio
import json

import numpy as np
import pytest
from bart_inference import generate, load, prepare, summarize
from bart_inference.checkpoint import embedded
from bart_inference.model import onednn
from bart_proto.v1 import bart_pb2 as pb
from bart_server.runtime import Runtime
from bart_server.settings import Settings

DOCUMENTS = [json.loads(line)["document"] for line in (embedded() / "examples.jsonl").read_text().splitlines()]


@pytest.mark.skipif(not onednn.available("int8"), reason="this processor or jaxlib has no int8 by oneDNN")
def test_a_server_in_int8_answers_as_generate_does(tmp_path):
    """The compile cache holds no program that calls oneDNN, so none of the model's programs."""
    settings = Settings(
        dtype="int8", beams=(1, 4), sampling_beams=(), sources=(128,), rows=(1,), compile_cache=str(tmp_path)
    )
    prepared = prepare(load(dtype="int8"))

    async def main():
        async with Runtime(settings) as runtime:
            [model] = (await runtime.list_models(pb.ListModelsRequest())).models
            assert model.dtype == "int8"
            for document in DOCUMENTS:
                for beams in (1, 4):
                    options = pb.GenerationOptions(num_beams=beams)
                    answer = await runtime.summarize(pb.SummarizeRequest(text=document, options=options))
                    assert answer.text == summarize(prepared, document, num_beams=beams)
                    ids = prepared.tokenizer.encode(document).ids
                    alone = generate(prepared, np.array([ids]), num_beams=beams)
                    tokens = alone.sequences[0][1 : alone.lengths[0]].tolist()
                    assert list(answer.windows[0].summary.token_ids) == tokens

    asyncio.run(main())

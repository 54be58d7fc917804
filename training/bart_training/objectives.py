"""Training objectives: each makes (source ids, target ids) from a record of the corpus.

  summary  the source is the document, the target its summary
  infill   BART's own: the source is the document with masked spans and shuffled sentences, the target the document
  lead     the source is the document, the target a part of its first sentence (`bart_training.baselines.rule`)
  span     the source is the document, the target nine successive words of it, at a random place

The last two train copying. They take little time, because their targets are short.
"""

from collections.abc import Callable

import numpy as np
from bart_inference.tokenization import truncate
from tokenizers import Tokenizer

from bart_training import baselines
from bart_training.data import Make, Pair
from bart_training.noise import permute_sentences, text_infilling

SPAN_WORDS = 9


def summary(record: dict[str, str], limit: int, tokenizer: Tokenizer, rng: np.random.Generator) -> Pair:
    source = truncate(tokenizer.encode(record["document"]).ids, limit)
    return source, tokenizer.encode(record["summary"]).ids


def infill(record: dict[str, str], limit: int, tokenizer: Tokenizer, rng: np.random.Generator) -> Pair:
    target = truncate(tokenizer.encode(record["document"]).ids, limit)
    shuffled = permute_sentences(tokenizer.decode(target), rng)
    bos, *inner, eos = truncate(tokenizer.encode(shuffled).ids, limit)
    mask = tokenizer.encode("<mask>", add_special_tokens=False).ids[0]
    return [bos, *text_infilling(inner, mask, rng), eos], target


def lead(record: dict[str, str], limit: int, tokenizer: Tokenizer, rng: np.random.Generator) -> Pair:
    source = truncate(tokenizer.encode(record["document"]).ids, limit)
    return source, tokenizer.encode(baselines.rule(record["document"])).ids


def span(record: dict[str, str], limit: int, tokenizer: Tokenizer, rng: np.random.Generator) -> Pair:
    source = truncate(tokenizer.encode(record["document"]).ids, limit)
    words = tokenizer.decode(source).split()
    first = int(rng.integers(max(1, len(words) - SPAN_WORDS)))
    return source, tokenizer.encode(" ".join(words[first : first + SPAN_WORDS])).ids


OBJECTIVES: dict[str, Callable[[dict[str, str], int, Tokenizer, np.random.Generator], Pair]] = {
    "summary": summary,
    "infill": infill,
    "lead": lead,
    "span": span,
}


def mixture(shares: dict[str, float], records: list[dict[str, str]], tokenizer: Tokenizer) -> Make:
    """Makes batches of one objective each, drawn by its share, so that the targets of a batch have similar lengths."""
    names = list(shares)
    probabilities = np.array([shares[name] for name in names]) / sum(shares.values())

    def make(indices: np.ndarray, limit: int, rng: np.random.Generator) -> list[Pair]:
        name = str(rng.choice(names, p=probabilities))
        objective = OBJECTIVES[name]
        return [objective(records[i], limit, tokenizer, rng) for i in indices]

    return make

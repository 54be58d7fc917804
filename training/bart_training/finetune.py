"""Fine-tunes a model to summarize: `bart-finetune --corpus C --tokenizer T --run R --start FOLDER --steps N`.

A share of the batches trains copying from the document, which a small model otherwise forgets in a few hundred steps.
"""

import sys
from collections.abc import Sequence

from bart_training import stage

# The length in tokens to which the sources of a batch are cut -> the share of the batches.
LIMITS = {48: 0.85, 128: 0.12, 256: 0.02, 512: 0.01}
MIX = {"summary": 0.5, "lead": 0.3, "span": 0.2}  # objective -> share of the batches


def main(argv: Sequence[str] | None = None) -> int:
    return stage.run("bart-finetune", __doc__, argv, LIMITS, target_buckets=[16, 24, 40], mix=MIX)


if __name__ == "__main__":
    sys.exit(main())

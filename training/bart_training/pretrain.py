"""Pre-trains a model by denoising: `python -m bart_training.pretrain --corpus C --tokenizer T --run R --steps N`.

Half of the batches are BART's text infilling and sentence permutation. In the others the model copies a part of the
document (`bart_training.objectives`), so that copying is trained from the first step on.
"""

import sys
from collections.abc import Sequence

from bart_training import stage

# The length in tokens to which the sources of a batch are cut -> the share of the batches.
LIMITS = {48: 0.87, 64: 0.10, 128: 0.03}
MIX = {"infill": 0.5, "lead": 0.25, "span": 0.25}  # objective -> share of the batches


def main(argv: Sequence[str] | None = None) -> int:
    prog = "python -m bart_training.pretrain"
    return stage.run(prog, __doc__, argv, LIMITS, target_buckets=[16, 32, 48, 64, 128], mix=MIX)


if __name__ == "__main__":
    sys.exit(main())

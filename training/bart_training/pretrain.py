"""Denoising pre-training on the train documents: `python -m bart_training.pretrain --corpus C --tokenizer T --run R`.

BART's text infilling and sentence permutation in half of the batches, copying in the others
(`bart_training.objectives`): it puts a loss on copying from the first step on.
"""

from bart_training.stage import main

LIMITS = {48: 0.87, 64: 0.10, 128: 0.03}
MIX = {"infill": 0.5, "lead": 0.25, "span": 0.25}

if __name__ == "__main__":
    main(__doc__, LIMITS, target_buckets=[16, 32, 48, 64, 128], mix=MIX)

"""Fine-tune on document → summary: `python -m bart_training.finetune --corpus C --tokenizer T --run R --start FOLDER`.

A share of the batches goes on copying: without it a small model forgets in its first few hundred steps.
"""

from bart_training.stage import main

LIMITS = {48: 0.85, 128: 0.12, 256: 0.02, 512: 0.01}
MIX = {"summary": 0.5, "lead": 0.3, "span": 0.2}

if __name__ == "__main__":
    main(__doc__, LIMITS, target_buckets=[16, 24, 40], mix=MIX)

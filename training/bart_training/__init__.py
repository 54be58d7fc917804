"""From a corpus to a checkpoint: corpus, tokenizer, denoising pre-training, fine-tuning, evaluation."""

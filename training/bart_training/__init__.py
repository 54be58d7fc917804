"""Makes a checkpoint from a corpus: corpus, tokenizer, denoising pre-training, fine-tuning, evaluation."""

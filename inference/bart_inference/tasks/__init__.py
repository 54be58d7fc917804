"""One module for each task that users give a checkpoint."""

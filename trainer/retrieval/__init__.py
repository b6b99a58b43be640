"""The retrieval task: the model around the towers, negatives, losses, training, what it retrieves by, and what the blocks weigh."""

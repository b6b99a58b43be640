"""The retrieval task: the model around the towers, its negatives and losses, how it trains, and what it retrieves by."""

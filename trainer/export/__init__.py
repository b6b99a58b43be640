"""What is served: the signatures of the SavedModel, what the stages of a call weigh, and the bundle around it."""

"""What is served: the signatures of the SavedModel, and the bundle around it."""

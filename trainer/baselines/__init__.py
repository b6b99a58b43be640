"""What a model must beat. Each file registers classical methods that learn from the same split as the model.

A baseline's constructor takes its settings; one that is None is chosen on the validation cases inside `fit`.
"""

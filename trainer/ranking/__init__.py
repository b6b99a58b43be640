"""The ranking model, what it predicts, and the stages of one call."""

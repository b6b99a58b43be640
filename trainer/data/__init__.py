"""Data without TensorFlow: sources, splits, vocabularies, and the integer examples that models train on."""

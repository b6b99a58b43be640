"""Indices: top-k over all candidates, one file each, and what they share (`top.py`)."""

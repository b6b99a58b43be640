"""The settings that would load the files of a stranger: what `python -m trainer describe` writes."""

"""The query and candidate towers: features in, one vector a side out."""

"""Files of a stranger to typed columns: how a file is written, what its columns hold, and which rows cannot be read."""

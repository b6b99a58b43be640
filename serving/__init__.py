"""Everything that talks to a finished bundle; it never imports `trainer`."""

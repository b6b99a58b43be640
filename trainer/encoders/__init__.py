"""Query encoders: `([batch, length, dimension], mask [batch, length])` to `[batch, dimension]`, one file each."""

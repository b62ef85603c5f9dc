"""How long data is kept: `prune` deletes what is old, and `contacts` exports and erases one person's data."""

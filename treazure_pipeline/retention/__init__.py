"""How long the ledger remembers: `prune` deletes what is old, `contacts` exports and erases one person."""

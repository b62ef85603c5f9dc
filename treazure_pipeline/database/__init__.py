"""PostgreSQL: the embedded server, the schema and its migrations. What the tables mean is the ledger's."""

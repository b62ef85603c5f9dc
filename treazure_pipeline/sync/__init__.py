"""The balance sync as plain typed functions over a ledger and two clients."""

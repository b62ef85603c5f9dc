"""Reads balances back from Engage: `read_back` compares, `rounds` knows who is next and what differs, `explain` shows why a contact has its balance."""

"""Reading balances back from Engage: `read_back` compares, `rounds` keeps whose turn it is and what differs, `explain` tells a contact's story."""

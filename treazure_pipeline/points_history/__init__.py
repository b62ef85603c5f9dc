"""The points log of a contact: `contact_card` for Engage's contact card, `refresh`, `store` and `export` for the data team."""

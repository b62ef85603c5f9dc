"""Alerts: `state` finds what is wrong, `notify` sends a message once when it begins and once when it is over."""

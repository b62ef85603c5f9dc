"""Alerts: `state` finds what is wrong, `notify` tells it once when it begins and once when it is over."""

"""What the commands of all capabilities share: what they work on, how they print, how they are stopped."""

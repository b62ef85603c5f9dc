"""What the commands of all capabilities stand on: what they work on, how they speak, how they are stopped."""

"""The scheduler: every timer of the node."""

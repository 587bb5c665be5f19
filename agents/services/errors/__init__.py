"""The error store: what died or went wrong in this node, why, and how often; kept over every restart."""

"""The health service: probes of children, limits on what they use, alerts of the host."""

"""The health service in a simulated world: its real machines and root's real end, around children that fall ill."""

"""The supervision tree (pure) and the processes around it: heart, root, zygote, logger."""

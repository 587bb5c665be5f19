"""The store: what must outlive every process, in one SQLite database that one process writes."""

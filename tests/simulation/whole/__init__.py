"""The whole node: beside root, tree, router and store also the services that have a small world of their own."""

"""The service `commands`: runs the commands of all agents in the node's sandboxes.

`service` speaks to agents, `book` holds what belongs to whom, `nursery` has the workers started as children of the service.
What a sandbox is, and the pool of workers, is `otpd.agents.sandbox`.
"""

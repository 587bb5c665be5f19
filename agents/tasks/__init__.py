"""Task pools: functions in worker processes that the node owns. `machine` decides, `dispatcher` and `worker` carry it out,
`desk` is the owner's side of it."""

"""The world of timers: the real machine of the scheduler and the agents' real memory of runs, with everybody's death."""

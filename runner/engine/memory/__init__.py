"""Memory: the bytes that a model needs, the bytes that a machine has, and plans to hold the model.

The planner is pure; only `machine` and `devices` query the machine.
"""

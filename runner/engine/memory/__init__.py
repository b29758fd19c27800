"""The memory of a device: what a model takes, what there is, and the plan that joins the two.

The planner is pure; only `machine` and `devices` look at the machine.
"""

from runner.engine.memory.planner import after_out_of_memory, lines, plan
from runner.engine.memory.plans import Machine, MemoryPlan

__all__ = ["Machine", "MemoryPlan", "after_out_of_memory", "lines", "plan"]

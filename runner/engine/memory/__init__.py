"""Memory: the bytes that a model needs, the bytes that a machine has, and plans to hold the model.

The planner is pure; only `machine` and `devices` query the machine.
"""

from runner.engine.memory.planner import after_out_of_memory, explain_plan, plan
from runner.engine.memory.plans import Machine, MemoryPlan

__all__ = ["Machine", "MemoryPlan", "after_out_of_memory", "explain_plan", "plan"]

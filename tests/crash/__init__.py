"""What survives a kill at every operation, and a power loss after every operation.

python -m tests.crash            every point of every scenario
python -m tests.crash --short    a seeded selection, as in the ordinary test command
"""

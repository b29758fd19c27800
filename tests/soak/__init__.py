"""Long runs: what grows, and what is lost, when a runner is left alone.

`python -m tests.soak` disturbs a real runner for half an hour, `python -m tests.soak month` plays a
month of jobs in simulated time.
"""

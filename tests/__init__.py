"""The tests, and the one command that runs all of them: `python -m tests`."""

"""The runner at work. Nothing is imported here: the supervisor has to stay light."""

"""Records of jobs: the ledger, private to the runner, and the outbox, which callers read."""

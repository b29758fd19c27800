"""Opening a home: the ledger made again if need be, and what the last process left mended."""

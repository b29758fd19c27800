"""Opening a home: rebuilding its ledger if need be, and recovery from how the last run ended."""

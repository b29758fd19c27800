-- How many of the warnings came with the spec: those behind them are of its run, and not of a retry.
ALTER TABLE job ADD COLUMN foreseen INTEGER;  -- NULL: not known

-- A picture that has the size and the time of change with which it was counted is not read again.
ALTER TABLE image ADD COLUMN bytes INTEGER;
ALTER TABLE image ADD COLUMN mtime_ns INTEGER;
-- The same file comes again and again: of its name alone there may be ten thousands.
DROP INDEX job_source;
CREATE INDEX job_source ON job (source_key, source_name, source_sha256, seq);

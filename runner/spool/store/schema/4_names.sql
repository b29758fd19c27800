-- Names of files are compared as ids are: without case and Unicode form.
ALTER TABLE job ADD COLUMN source_key TEXT;
UPDATE job SET source_key = file_key(source_name);
DROP INDEX job_source;
CREATE INDEX job_source ON job (source_key, source_name, seq);

-- Files of forgotten jobs: with `synced_inbox` they are known when they are delivered again.
CREATE TABLE seen (
  name TEXT NOT NULL, sha256 TEXT NOT NULL, mtime_ns INTEGER NOT NULL,
  id TEXT NOT NULL, state TEXT NOT NULL,        -- of the job
  PRIMARY KEY (name, sha256, mtime_ns)
) WITHOUT ROWID;

-- The tables of version 0.1.0, whose files had no number. Changes nothing where they are there.
CREATE TABLE IF NOT EXISTS job (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL, key TEXT NOT NULL,
  state TEXT NOT NULL, reason TEXT, message TEXT,
  kind TEXT, model TEXT, priority INTEGER NOT NULL, attempt INTEGER NOT NULL,
  revision INTEGER NOT NULL, total INTEGER NOT NULL, base_seed INTEGER,
  cancelled INTEGER NOT NULL, ready_at REAL NOT NULL, behind INTEGER NOT NULL,
  source_name TEXT NOT NULL, source_sha256 TEXT NOT NULL, source_bytes INTEGER NOT NULL,
  source_mtime_ns INTEGER NOT NULL,
  identity TEXT, suffix TEXT NOT NULL, spec BLOB NOT NULL,
  realised TEXT NOT NULL, inputs TEXT NOT NULL, errors TEXT NOT NULL, warnings TEXT NOT NULL,
  accepted_at TEXT NOT NULL, started_at TEXT, finished_at TEXT
);
CREATE INDEX IF NOT EXISTS job_key ON job (key, seq);
CREATE INDEX IF NOT EXISTS job_source ON job (source_name, seq);
CREATE INDEX IF NOT EXISTS job_state ON job (state, seq);
CREATE INDEX IF NOT EXISTS job_turn ON job (priority DESC, seq) WHERE state = 'queued';
CREATE INDEX IF NOT EXISTS job_behind ON job (seq) WHERE behind = 1;
CREATE INDEX IF NOT EXISTS job_waiting ON job (seq)
  WHERE state = 'queued' AND reason = 'WaitingForInput';
CREATE INDEX IF NOT EXISTS job_identity ON job (identity) WHERE identity IS NOT NULL;
CREATE TABLE IF NOT EXISTS image (
  seq INTEGER NOT NULL, number INTEGER NOT NULL,
  outcome TEXT NOT NULL, reason TEXT, message TEXT, output TEXT,
  PRIMARY KEY (seq, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS composed (
  seq INTEGER NOT NULL, number INTEGER NOT NULL, fields TEXT NOT NULL, origin TEXT NOT NULL,
  PRIMARY KEY (seq, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS judging (sha256 TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY) WITHOUT ROWID;

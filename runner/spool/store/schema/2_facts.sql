-- One column for each fact: what holds a job back, what was asked of it, what its images came to.
ALTER TABLE job RENAME TO old_job;
CREATE TABLE job (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL,
  key TEXT NOT NULL,                            -- the id as ids are compared
  state TEXT NOT NULL,
  end_reason TEXT, end_message TEXT,            -- of a final state only
  -- What holds it back: independent facts, any of which may be true at once.
  inputs_missing INTEGER NOT NULL, waits_for TEXT,
  ready_at REAL NOT NULL,                       -- wall clock: its hours are closed until then
  put_back TEXT, put_back_message TEXT,         -- why it last left the device; shown, never asked
  cancel_at TEXT,                               -- a request, recorded once and obeyed by the next move
  kept INTEGER NOT NULL,                        -- never removed by `clean`
  priority INTEGER NOT NULL,
  kind TEXT, model TEXT, base_seed INTEGER,
  total INTEGER NOT NULL,
  done INTEGER NOT NULL, failed INTEGER NOT NULL, skipped INTEGER NOT NULL,  -- counted by triggers
  attempt INTEGER NOT NULL,                     -- the status's number; decides nothing
  version INTEGER NOT NULL,                     -- rises with each move
  shown INTEGER NOT NULL,                       -- the version that the status shows
  revision INTEGER NOT NULL,                    -- of the status
  source_name TEXT NOT NULL, source_sha256 TEXT NOT NULL, source_bytes INTEGER NOT NULL,
  source_mtime_ns INTEGER NOT NULL, suffix TEXT NOT NULL, spec BLOB NOT NULL,
  realised TEXT NOT NULL, inputs TEXT NOT NULL, errors TEXT NOT NULL, warnings TEXT NOT NULL,
  accepted_at TEXT NOT NULL, started_at TEXT, finished_at TEXT
);
INSERT INTO job
  SELECT
    seq, id, key, state,
    CASE WHEN finished_at IS NOT NULL THEN reason END,
    CASE WHEN finished_at IS NOT NULL THEN message END,
    state = 'queued' AND reason IS 'WaitingForInput',
    CASE WHEN state = 'queued' AND reason IS 'WaitingForInput' THEN message END,
    ready_at,
    CASE WHEN state = 'queued' AND reason IS NOT 'WaitingForInput' THEN reason END,
    CASE WHEN state = 'queued' AND reason IS NOT 'WaitingForInput' THEN message END,
    CASE WHEN cancelled THEN coalesce(finished_at, started_at, accepted_at) END,
    0, priority, kind, model, base_seed, total,
    (SELECT count(*) FROM image i WHERE i.seq = old_job.seq AND outcome = 'done'),
    (SELECT count(*) FROM image i WHERE i.seq = old_job.seq AND outcome = 'failed'),
    (SELECT count(*) FROM image i WHERE i.seq = old_job.seq AND outcome = 'skipped'),
    attempt, 1, 1 - behind, revision,
    source_name, source_sha256, source_bytes, source_mtime_ns, suffix, spec,
    realised, inputs, errors, warnings, accepted_at, started_at, finished_at
  FROM old_job;
-- Reserved numbers lie above the last job's.
DELETE FROM sqlite_sequence WHERE name = 'job';
INSERT INTO sqlite_sequence SELECT 'job', seq FROM sqlite_sequence WHERE name = 'old_job';

CREATE TABLE unanswered (                       -- files of the inbox whose job is recorded
  identity TEXT PRIMARY KEY, seq INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX unanswered_job ON unanswered (seq);
INSERT OR IGNORE INTO unanswered
  SELECT identity, seq FROM old_job WHERE identity IS NOT NULL;
DROP TABLE old_job;

CREATE INDEX job_key ON job (key, seq);
CREATE INDEX job_source ON job (source_name, seq);
CREATE INDEX job_state ON job (state, seq);
CREATE INDEX job_turn ON job (priority DESC, seq) WHERE state = 'queued';
CREATE INDEX job_inputs ON job (seq) WHERE inputs_missing = 1;
CREATE INDEX job_behind ON job (seq) WHERE shown < version;
CREATE TRIGGER final_stays BEFORE UPDATE OF state ON job WHEN OLD.finished_at IS NOT NULL
  BEGIN SELECT RAISE(ABORT, 'a final state stays'); END;
CREATE TRIGGER image_counted AFTER INSERT ON image BEGIN
  UPDATE job SET done = done + (NEW.outcome = 'done'), failed = failed + (NEW.outcome = 'failed'),
    skipped = skipped + (NEW.outcome = 'skipped') WHERE seq = NEW.seq;
END;
CREATE TRIGGER image_uncounted AFTER DELETE ON image BEGIN
  UPDATE job SET done = done - (OLD.outcome = 'done'), failed = failed - (OLD.outcome = 'failed'),
    skipped = skipped - (OLD.outcome = 'skipped') WHERE seq = OLD.seq;
END;

CREATE TABLE in_flight (                        -- given to a slot and not answered
  seq INTEGER, number INTEGER, run INTEGER,
  model TEXT NOT NULL, slot TEXT NOT NULL, phase TEXT NOT NULL,
  PRIMARY KEY (seq, number)
) WITHOUT ROWID;
CREATE TABLE loss (                             -- a process ended, or hung, with this in flight
  seq INTEGER, number INTEGER, attempt INTEGER, run INTEGER, model TEXT,
  slot TEXT NOT NULL, phase TEXT NOT NULL, why TEXT NOT NULL, at TEXT NOT NULL,
  PRIMARY KEY (seq, number, attempt)
) WITHOUT ROWID;
CREATE TABLE run (                              -- one life of the runner
  n INTEGER PRIMARY KEY AUTOINCREMENT, started_at TEXT NOT NULL, stop_at TEXT, closed_at TEXT
);
INSERT INTO run (started_at) SELECT '' FROM mark WHERE name = 'open';
DROP TABLE mark;
ALTER TABLE judging RENAME TO suspect;

CREATE TABLE event (
  n INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, seq INTEGER, id TEXT,
  version INTEGER, at TEXT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE cursor (listener TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;

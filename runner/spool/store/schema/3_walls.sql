-- What is at fault by itself is kept apart, so that the others go on.
CREATE TABLE stuck (                            -- answered or obeyed, and cannot leave the inbox
  identity TEXT PRIMARY KEY, name TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE quarantine (                       -- jobs that cannot be read; `record` for whoever looks
  id TEXT PRIMARY KEY, why TEXT NOT NULL, record TEXT NOT NULL, at TEXT NOT NULL
) WITHOUT ROWID;

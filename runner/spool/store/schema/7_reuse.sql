-- Of the images that are done, some are copies of pictures that existed already.
ALTER TABLE job ADD COLUMN reused INTEGER NOT NULL DEFAULT 0;  -- counted by triggers
ALTER TABLE image ADD COLUMN reused INTEGER NOT NULL DEFAULT 0;
DROP TRIGGER image_counted;
DROP TRIGGER image_uncounted;
CREATE TRIGGER image_counted AFTER INSERT ON image BEGIN
  UPDATE job SET done = done + (NEW.outcome = 'done'), failed = failed + (NEW.outcome = 'failed'),
    skipped = skipped + (NEW.outcome = 'skipped'), reused = reused + NEW.reused WHERE seq = NEW.seq;
END;
CREATE TRIGGER image_uncounted AFTER DELETE ON image BEGIN
  UPDATE job SET done = done - (OLD.outcome = 'done'), failed = failed - (OLD.outcome = 'failed'),
    skipped = skipped - (OLD.outcome = 'skipped'), reused = reused - OLD.reused WHERE seq = OLD.seq;
END;

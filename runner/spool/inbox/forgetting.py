"""Forgets finished jobs whose folders are gone, and what else is past, a batch at a time.

Asked for by a file `runner.clean`, or by `clean` where no runner has the home; may be broken off
and begun again. Never touches a job that is not over and shown, nor anything while the outbox is
away.
"""

import logging
from collections.abc import Iterator

from runner import reading
from runner.clock import now, timestamp
from runner.errors import PlaceAway
from runner.files import is_folder, is_there, names_in
from runner.spool.disk.disk import leaving_out
from runner.spool.inbox.ids import is_away
from runner.spool.store.names import is_safe_id
from runner.spool.store.spool import Spool

log = logging.getLogger(__name__)

# So many in some hundredths of a second: meanwhile no drop is taken.
_JOBS = 100
_IMAGES = 2000
_RECEIPTS = 200
_RECEIPT_SECONDS = 86_400.0


def forget_gone(spool: Spool) -> Iterator[bool]:
    """Forget all of it; True after each batch, when the caller may break off."""
    ledger, outbox, drops, seq = spool.ledger, spool.outbox, spool.home.drops, 0
    while batch := ledger.over(after=seq, limit=_JOBS):
        gone: dict[int, int] = {}
        for record in batch:
            seq = record.seq
            with leaving_out(outbox.folder(record.id), log.warning):
                if is_away(record, outbox):
                    gone[seq] = record.total
            if sum(gone.values()) >= _IMAGES:
                break
        if away := spool.home.places.away():
            raise PlaceAway(away)
        ledger.forget(*gone, seen=spool.home.settings.synced_inbox)
        yield True
    day_ago = timestamp(now() - _RECEIPT_SECONDS)
    for number, name in enumerate(names_in(drops)):
        with leaving_out(drops / name, log.warning):
            answer = reading.receipt(drops / name)
            if answer is not None and answer["at"] < day_ago:
                job = answer["job"]
                # A control file that was refused may name what can be no job's id.
                if not (is_safe_id(job) and (is_there(outbox.folder(job)) or ledger.newest(job))):
                    spool.disk.remove(drops / name)
        if number % _RECEIPTS == 0:
            yield True
    if is_folder(drops):
        # As durable as the removal of the file that asked for it.
        spool.disk.sync_folder(drops)
    ledger.forget_past()

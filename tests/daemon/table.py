"""What comes of each request and event in each state of a job: one table, one owner.

Each cell has its outcome in a few words and the tests whose names are those sentences. The moves
that make it so are those of `runner/spool/store/ledger.py`. `python -m tests.daemon.table` writes
the table into ARCHITECTURE.md.
"""

from __future__ import annotations

from tests.harness import ROOT

STATES = (
    "queued, not answered", "queued, held or ready", "running, between images",
    "running, in mid image", "final",
)  # fmt: skip
Cell = tuple[str, ...] | None

_RETRY = ("waits for its end", "test_a_retry_of_an_unfinished_job_waits_for_its_end")
_KEEP = ("waits for its end", "test_a_keep_of_an_unfinished_job_waits_for_its_end")
_GONE = (
    "pictures that are gone are counted and said",
    "test_images_of_a_running_job_whose_folder_is_deleted_are_counted_and_said_while_it_goes_on",
)
_STATUS = (
    "written with the next change",
    "test_a_status_of_a_running_job_that_is_deleted_is_written_with_the_next_change",
)
_END = (
    "ends once, when its last image is over",
    "test_a_job_whose_last_image_is_over_ends_once",
)

TABLE: dict[str, tuple[Cell, ...]] = {
    "`.cancel`": (
        ("ends; its answer goes on",
         "test_a_cancel_of_a_job_that_is_not_answered_yet_ends_it_and_the_answer_goes_on"),
        ("ends at once",
         "test_a_cancel_of_a_queued_job_ends_it_at_once_whatever_holds_it_and_it_never_starts"),
        ("ends at the next look",
         "test_a_cancel_of_a_running_job_between_two_images_ends_it_at_the_next_look"),
        ("stop sign; ends with the last answer",
         "test_a_cancel_in_mid_image_sets_the_stop_sign_and_the_job_ends_with_the_last_answer"),
        ("nothing", "test_a_cancel_of_a_final_job_is_removed_and_changes_nothing"),
    ),
    "`runner.pause`, `runner.lend`": (
        ("is answered, and stays", "test_a_pause_lets_an_answer_go_on_and_its_job_waits"),
        ("stays", "test_a_pause_leaves_a_queued_job_where_it_is"),
        ("back into the queue", "test_a_job_between_two_images_is_put_back_at_the_next_look"),
        ("back at the end of that image",
         "test_a_job_in_mid_image_is_put_back_at_the_end_of_that_image"),
        ("nothing", "test_a_hold_changes_nothing_of_a_final_job"),
    ),
    "`runner.lend` with `now`": (
        None,
        None,
        None,
        ("stop sign; back, nobody is charged",
         "test_a_lend_at_once_sets_the_stop_sign_and_takes_the_image_back_uncharged"),
        None,
    ),
    "hours, priority, a full disk": (
        None,
        None,
        ("back into the queue, or cancelled if that was asked",
         "test_a_job_between_two_images_is_put_back_at_the_next_look",
         "test_a_job_that_is_put_back_after_a_cancel_was_recorded_ends_cancelled"),
        ("back at the end of that image",
         "test_a_job_in_mid_image_is_put_back_at_the_end_of_that_image"),
        ("nothing", "test_a_hold_changes_nothing_of_a_final_job"),
    ),
    "`.retry`": (
        _RETRY, _RETRY, _RETRY, _RETRY,
        ("a new job, once for one file",
         "test_a_retry_of_a_final_job_makes_one_job_however_often_its_file_is_read"),
    ),
    "`.keep`": (
        _KEEP, _KEEP, _KEEP, _KEEP,
        ("kept", "test_a_keep_of_a_final_job_marks_it_as_kept"),
    ),
    "its end": (
        None,
        ("ends where an input never comes", "test_an_input_that_never_comes_ends_a_queued_job"),
        _END,
        _END,
        ("a late answer is dropped", "test_a_late_answer_for_a_final_job_changes_nothing"),
    ),
    "a stop of the runner": (
        ("the next runner answers",
         "test_a_stop_leaves_a_job_that_is_not_answered_yet_and_the_next_runner_answers"),
        ("stays", "test_a_stop_leaves_a_queued_job_as_it_is"),
        ("back, nobody is charged",
         "test_a_stop_between_two_images_puts_the_job_back_and_charges_nobody"),
        ("stop sign; back, nobody is charged",
         "test_a_stop_in_mid_image_sets_the_stop_sign_and_takes_the_image_back_uncharged"),
        ("stays", "test_a_stop_leaves_a_final_job_as_it_is"),
    ),
    "a kill": (
        ("answered again, made once",
         "test_a_job_that_was_not_answered_before_a_kill_is_answered_again_and_not_made_twice"),
        ("stays", "test_a_kill_leaves_a_queued_job_as_it_is"),
        ("back, nobody is charged",
         "test_a_job_that_was_killed_between_two_images_is_put_back_and_nobody_is_charged"),
        ("the image is charged",
         "test_a_kill_is_charged_to_the_image_in_flight_and_the_job_goes_on_there"),
        ("its status is shown again",
         "test_a_final_status_that_a_kill_kept_back_is_shown_by_the_next_runner"),
    ),
    "the device lost, or hung": (
        None,
        None,
        None,
        ("the image is charged; stays running",
         "test_a_slot_that_ends_is_charged_with_what_it_had_and_the_job_stays_running"),
        ("a late answer is dropped",
         "test_a_late_answer_for_an_image_that_is_over_changes_nothing"),
    ),
    "its folder deleted": (
        ("status again, with the answer",
         "test_a_status_deleted_before_the_answer_is_written_again_with_the_answer"),
        ("spec and status again, at the next look",
         "test_a_status_of_a_queued_job_that_is_deleted_is_written_again_at_the_next_look"),
        _GONE,
        _GONE,
        ("forgotten when its id is wanted",
         "test_a_final_job_whose_folder_is_deleted_is_forgotten_when_its_id_is_wanted"),
    ),
    "its status deleted": (
        ("again, with the answer",
         "test_a_status_deleted_before_the_answer_is_written_again_with_the_answer"),
        ("again, at the next look",
         "test_a_status_of_a_queued_job_that_is_deleted_is_written_again_at_the_next_look"),
        _STATUS,
        _STATUS,
        ("stays away", "test_a_status_of_a_final_job_that_is_deleted_stays_away"),
    ),
}  # fmt: skip

BEGIN, END = "<!-- tests/daemon/table.py -->\n", "<!-- end -->\n"


def markdown() -> str:
    """The table as ARCHITECTURE.md has it."""
    lines = [f"| | {' | '.join(STATES)} |", "|---" * (len(STATES) + 1) + "|"]
    for what, cells in TABLE.items():
        lines.append(f"| {what} | {' | '.join(cell[0] if cell else '–' for cell in cells)} |")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Write the table."""
    file = ROOT / "ARCHITECTURE.md"
    text = file.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    file.write_text(
        f"{before}{BEGIN}{markdown()}{END}{rest.split(END)[1]}", encoding="utf-8", newline="\n"
    )


if __name__ == "__main__":
    main()

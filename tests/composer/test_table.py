"""Tables as people's programs write them, and every faulty row told by its row and column."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from composer.plan import make_plan
from composer.table import Row, Table, read_table
from runner.daemon.results import COLUMNS, _cell
from specs.errors import SpecInvalid

SPEC = {"kind": "text2img", "model": "tiny", "table": "products.csv"}
# What Excel saves as `CSV UTF-8` where lists are separated by semicolons.
EXCEL = (
    '\ufeffprompt;seed;guidance;image;x_sku;;\r\n"a mug,\r\n""blue""";7;3,5;;0012;;\r\n'
    "a cup;8;2;;'=A1;;\r\n;;;;;;\r\n;;;;;;\r\n"
)
# What Google Sheets saves as TSV: nothing is quoted.
SHEETS = 'prompt\tsteps\tx_note\r\n"Blue" mug, large\t4\ta "b"\r\nred cup\t\t\r\n'
# What LibreOffice saves with all text in quotes.
LIBRE = '"prompt","width","x_note"\n"a mug",64,""\n'
# What pandas writes with orient="records", lines=True, and with json.dumps line by line.
PANDAS = (
    '{"prompt":"a mug","width":512.0,"seed":null,"x_price":2.5}\n'
    '{"prompt": "a NaN cup", "width": NaN, "seed": 3.0, "x_price": NaN}\n\n'
)


def table(data: str | bytes, name: str = "products.csv", **spec: Any) -> Table:
    """The table of these bytes, for a spec of text2img."""
    data = data.encode() if isinstance(data, str) else data
    merged = {key: value for key, value in {**SPEC, **spec}.items() if value is not None}
    return read_table(data, name, "", merged, lambda model: model == "tiny")


def told(found: Table) -> list[str]:
    """The faults in words."""
    problems = found.told(found.faults).problems if found.faults else ()
    return [str(problem).removeprefix("table: ") for problem in problems]


def fields(found: Table) -> list[dict[str, Any]]:
    """The fields of each row."""
    assert not found.faults, told(found)
    return [dict(row.fields) for row in found.rows]


def test_a_file_of_excel_is_read_with_its_semicolons_decimal_commas_and_empty_rows() -> None:
    assert fields(table(EXCEL)) == [
        {"prompt": 'a mug,\r\n"blue"', "seed": 7, "guidance": 3.5, "x_sku": "0012"},
        {"prompt": "a cup", "seed": 8, "guidance": 2, "x_sku": "=A1"},
    ]
    assert [row.number for row in table(EXCEL).rows] == [2, 3]
    assert fields(table("sep=;\r\n" + EXCEL[1:])) == fields(table(EXCEL))


def test_a_file_of_google_sheets_is_read_though_it_quotes_nothing() -> None:
    assert fields(table(SHEETS, "a.tsv")) == [
        {"prompt": '"Blue" mug, large', "steps": 4, "x_note": 'a "b"'},
        {"prompt": "red cup"},
    ]


def test_lines_of_pandas_have_whole_numbers_as_floats_and_nan_for_nothing() -> None:
    assert fields(table(PANDAS, "a.jsonl")) == [
        {"prompt": "a mug", "width": 512, "x_price": 2.5},
        {"prompt": "a NaN cup", "seed": 3},
    ]


def test_a_file_of_libreoffice_is_read_with_all_its_text_in_quotes() -> None:
    assert fields(table(LIBRE)) == [{"prompt": "a mug", "width": 64}]


def test_an_unknown_column_is_told_with_the_one_that_was_meant() -> None:
    assert told(table(LIBRE.replace("x_note", "promt"))) == [
        "products.csv: row 1, column promt: unknown column 'promt' (did you mean 'prompt'?)"
    ]
    assert told(table("num_inference_steps,prompt\n4,a mug\n")) == [
        "products.csv: row 1, column num_inference_steps: unknown column 'num_inference_steps'"
        " (did you mean 'steps'?)"
    ]


@pytest.mark.parametrize(
    ("data", "spec", "expected"),
    [
        ("prompt,seed,seed\na,1,2\n", {}, "row 1, column seed: 'seed' is a second column of"),
        ("prompt,kind\na,fill\n", {}, "row 1, column kind: 'kind' is no column: put it into the"),
        ("prompt,steps\na,1\n", {"matrix": {"steps": [1]}}, "row 1, column steps: 'steps' is in"),
        ("prompt,subject\na,mug\n", {}, "row 1, column subject: 'subject' is a part of a pack"),
        ("prompt,seed\na,1,x\n", {}, "row 2, column 3: the header has no such column: put text"),
        ("prompt,x_\x07\na,1\n", {}, "row 1, column x_\x07: unknown column 'x_\\x07' (yours begin"),
        ("prompt,steps\na,many\n", {}, "row 2, column steps: 'many' is not a whole number"),
        ("prompt,seeds\na,[1\n", {}, "row 2, column seeds: not JSON: "),
        ("prompt,seed\n,1\n", {}, "row 2: 'prompt' is required for text2img (or 'compose')"),
        (f"prompt,x_a\na,{'x' * 65_537}\n", {}, "row 2, column x_a: text of more than 65,536"),
        ('prompt\n"a\n\nb"\nx\x07y\n', {}, "row 3, column prompt: the character U+0007"),
    ],
)
def test_what_is_wrong_with_a_cell_is_told_with_its_place(
    data: str, spec: dict[str, Any], expected: str
) -> None:
    (sentence,) = told(table(data, **spec))
    assert sentence.startswith(f"products.csv: {expected}"), sentence


@pytest.mark.parametrize(
    ("data", "reason", "expected"),
    [
        ("prompt\n", "NothingToRun", "the table has no rows"),
        ("", "NothingToRun", "the first row must name the columns"),
        ("prompt\na\n".encode("utf-16"), "NotUtf8", "is UTF-16 (byte 0): save it as UTF-8"),
        ("prompt\nfür\n".encode("latin-1"), "NotUtf8", "byte 0xfc at offset 8 is not UTF-8"),
        ('prompt\nx\n"a\n', "BadYaml", "row 3: its quotes do not match"),
        ("prompt\n" + "a\n" * 10_001, "TooManyImages", "more than 10,000 images"),
    ],
)
def test_a_file_without_rows_is_refused_with_what_to_do(
    data: str | bytes, reason: str, expected: str
) -> None:
    with pytest.raises(SpecInvalid) as refused:
        table(data)
    assert (refused.value.reason, expected in str(refused.value)) == (reason, True), refused.value


def test_each_faulty_line_is_told_and_the_others_are_rows() -> None:
    lines = '{"prompt":"a"}\n{bad\n[1]\n{"prompt":"b","promt":1}\n{"seed":"x"}\nhere\n'
    found = table(lines, "a.jsonl")
    assert told(found) == [
        "a.jsonl: line 2: expected a key in double quotes (sign 2)",
        "a.jsonl: line 3: [1] is not a mapping: each line is one",
        "a.jsonl: line 4, key promt: unknown column 'promt' (did you mean 'prompt'?)",
        "a.jsonl: line 5: 'prompt' is required for text2img (or 'compose')",
        "a.jsonl: line 5, key seed: 'x' is not a whole number",
        "a.jsonl: line 6: this is not JSON (sign 1)",
    ]
    assert [row.number for row in found.rows] == [1]


def test_of_five_hundred_rows_the_seven_faulty_ones_are_named() -> None:
    wrong = {17: "wide", 60: "100", 61: "63", 100: "1e9", 301: "-64", 499: "[]", 501: "65.5"}
    rows = [f"a mug {n},{wrong.get(n, 64)}" for n in range(2, 502)]
    found = table("\n".join(["prompt,width", *rows]))
    places = dict.fromkeys(sentence.partition(", column")[0] for sentence in told(found))
    assert [*places] == [f"products.csv: row {n}" for n in wrong]
    assert all(", column width: " in sentence for sentence in told(found))
    assert len(found.rows) == 493


def test_reading_ends_where_a_thousand_rows_are_faulty() -> None:
    found = table("prompt,steps\n" + "a,x\n" * 5_000)
    assert len(found.faults) == 1_000


@pytest.mark.parametrize("name", ["results.csv", "results.jsonl"])
def test_the_results_of_a_job_are_a_table_again(name: str) -> None:
    """Seen red: ten faults, one for each column that is no field."""
    row = {**dict.fromkeys(COLUMNS), "row": 2, "prompt": "a mug", "seed": 7, "state": "done"}
    lines = [",".join(COLUMNS), ",".join(str("" if v is None else v) for v in row.values())]
    found = table("\n".join(lines) if name.endswith("csv") else json.dumps(row), name)
    assert fields(found) == [{"prompt": "a mug", "seed": 7}]
    assert len(found.warnings) == 1 and "`sha256`" in found.warnings[0]
    skipped = {**dict.fromkeys(COLUMNS), "row": 3, "state": "skipped"}
    both = table("\n".join(map(json.dumps, (row, skipped))), "r.jsonl")
    assert fields(both) == fields(found)
    assert "unknown column 'verdict'" in str(told(table("prompt,verdict\na,ok\n")))


BATCH = {"custom_id": "a", "method": "POST", "url": "/v1/images/generations"}
BODY = {"model": "gpt-image-1", "prompt": "a mug", "n": 2, "size": "1536x1024", "quality": "high"}


def test_requests_of_openai_are_rows_and_what_has_no_meaning_is_listed() -> None:
    other = {**BATCH, "custom_id": "b", "body": {"model": "tiny", "prompt": "x", "size": "auto"}}
    lines = [json.dumps({**BATCH, "body": BODY}), json.dumps(other)]
    found = table("\n".join(lines), "batch.jsonl")
    assert found.custom_ids == {1: "a", 2: "b"}
    assert found.rows == (
        Row(1, {"prompt": "a mug", "count": 2, "width": 1536, "height": 1024}),
        Row(2, {"model": "tiny", "prompt": "x"}),
    )
    assert found.warnings == (
        "batch.jsonl: no model here is called `gpt-image-1`: the default is taken",
        "batch.jsonl: `quality` has no meaning here",
    )


def test_a_request_that_is_none_is_told_with_its_line() -> None:
    lines = [
        {**BATCH, "body": BODY},
        {**BATCH, "body": BODY},
        {**BATCH, "custom_id": "c", "url": "/v1/images/edits", "body": {**BODY, "size": "big"}},
        {"prompt": "a"},
        {**BATCH, "custom_id": "d", "body": "x"},
        {**BATCH, "custom_id": "e", "body": {**BODY, "n": 0, "size": "65x64"}},
    ]
    found = table("\n".join(map(json.dumps, lines)), "b.jsonl")
    assert found.custom_ids[5] == "d"
    assert told(found) == [
        "b.jsonl: line 2, key custom_id: 'a' is that of line 1 too",
        "b.jsonl: line 3, key url: only /v1/images/generations is understood",
        "b.jsonl: line 3, key size: 'big' is not a size like 1024x1024",
        "b.jsonl: line 4: a request has a `custom_id`, which is text, and a `body`",
        "b.jsonl: line 5: a request has a `custom_id`, which is text, and a `body`",
        "b.jsonl: line 6, key n: 0 is less than the minimum of 1",
        "b.jsonl: line 6, key size: 65 is not a multiple of 16 (64 and 80 are)",
    ]


def test_a_cell_may_have_several_subjects_and_an_index_of_pandas_is_passed_over() -> None:
    packed = {"compose": {"pack": "mugs"}}
    found = table(',subject\n0,"[""a"", ""b""]"\n1,[ab]*\n', **packed)
    assert [row.parts for row in found.rows] == [{"subjects": ["a", "b"]}, {"subjects": "[ab]*"}]
    (said,) = told(table(",prompt\n0,a\n5,b\n"))
    assert "row 3, column 1: this column has no name (in pandas" in said


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n,;\"'=+-@"), max_size=30
)


@example([("'a'-b", 1, "'='+c"), ("''=1", 2, "'-"), ("'", 3, "''")])
@given(st.lists(st.tuples(TEXT, st.integers(0, 2**32 - 1), TEXT), min_size=1, max_size=8))
def test_rows_that_the_csv_module_writes_come_back_as_they_were(
    rows: list[tuple[str, int, str]],
) -> None:
    for delimiter, newline in ((",", "\r\n"), (";", "\n"), ("\t", "\r\n")):
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter, lineterminator=newline)
        writer.writerow(["prompt", "seed", "x_note"])
        expected = []
        for text, seed, note in rows:
            prompt = text if text.strip() else "a"
            writer.writerow([_cell(prompt), seed, neutral := _cell(note)])
            filled = {"x_note": note} if neutral.strip() else {}
            expected.append({"prompt": prompt, "seed": seed, **filled})
        assert fields(table(out.getvalue(), "a.tsv" if delimiter == "\t" else "a.csv")) == expected


SNIPPETS = st.sampled_from(
    ["prompt", "seed", "image", "x_a", "loras", ",", ";", "\t", "\n", "\r", '"', "'", "[", "{", "}",
     '{"prompt":', '"custom_id"', '"body"', ":", "NaN", "1e999", "-", "\x00", "\ufeff", "é", "null"]
)  # fmt: skip


@given(st.lists(SNIPPETS | st.text(max_size=3), max_size=40), st.sampled_from(["csv", "jsonl"]))
def test_whatever_a_file_holds_it_is_a_table_or_is_refused(parts: list[str], ending: str) -> None:
    try:
        found = table("".join(parts).encode("utf-8", "surrogatepass"), f"a.{ending}")
    except SpecInvalid as error:
        assert error.problems
    else:
        assert found.rows or told(found)


@pytest.mark.parametrize(
    ("rows", "seeds", "made"),
    [
        ("prompt,seed\na,5\nb,\n", {"seeds": {"start": 1, "count": 2}}, [5, 1, 2]),
        ("prompt,count\na,2\nb,\n", {"seeds": [7]}, [None, None, 7]),
        ('prompt,seeds\na,"[3,4]"\nb,\n', {"seed": 9, "count": 2}, [3, 4, 9, 10]),
    ],
)
def test_the_seeds_of_a_row_win_over_those_of_the_spec(
    rows: str, seeds: dict[str, Any], made: list[int | None], tmp_path: Path
) -> None:
    """Seen red: `'seed' and 'seeds' exclude each other`."""
    found = table(rows, **seeds)
    assert not told(found)
    plan = make_plan({**SPEC, **seeds}, tmp_path, table=found)
    assert [parameters.get("seed") for _, parameters in plan.images()] == made


@pytest.mark.parametrize("name", ["reuse", "preview"])
def test_what_a_job_does_as_a_whole_is_no_column(name: str) -> None:
    """Seen red: the column was taken, and what the spec says of it was off."""
    assert told(table(f"prompt,{name}\na,true\n")) == [
        f"products.csv: row 1, column {name}: {name!r} is no column: put it into the spec"
    ]

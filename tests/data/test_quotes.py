"""Quotation marks that nothing closes swallow what follows; no row may be lost in silence."""

import gzip

import pytest

from trainer.data.reading.quotes import LONGEST
from trainer.data.table import Table
from trainer.errors import UserError

HEAD = "user,item,comment\n"
EVENTS = "".join(f"u{n % 9},i{n % 7},fine\n" for n in range(3 * LONGEST))


@pytest.fixture
def load(tmp_path):
    def load(text, name="a.csv", **settings):
        raw = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
        return Table(path=str(tmp_path / name), **settings).load()

    return load


@pytest.mark.parametrize("on_bad_rows", ["fail", "skip"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("opened", ['u1,i1,"not closed', 'u1,"i1,well', '"u1","\\"i1","well"'])
@pytest.mark.parametrize("times", [1, 300])
def test_what_an_open_quotation_mark_swallows_is_told(load, name, opened, on_bad_rows, times):
    more = EVENTS * times
    with pytest.raises(UserError, match=r"is a quotation mark left open, .* sed "):
        load(f'{HEAD}u0,i0,fine\n{opened}\n{more}u2,i2,"end"\n{more}', name, on_bad_rows=on_bad_rows)


def test_an_open_quotation_mark_beside_rows_that_are_skipped(load):
    with pytest.raises(UserError, match="is a quotation mark left open"):
        load(f'{HEAD}u0,i0,fine,more\n{EVENTS}"u1","\\"i1","well"\n{EVENTS}', on_bad_rows="skip")


@pytest.mark.parametrize("has_header", [True, False])
@pytest.mark.parametrize("times", [1, 300])
def test_the_line_is_counted_over_fields_of_several_lines(load, has_header, times):
    columns = {} if has_header else {"columns": {"user": 1, "item": 2}}
    head, more = HEAD if has_header else "", EVENTS * times
    with pytest.raises(UserError, match=f"one row would go from line {5 if has_header else 4} over"):
        load(
            f'{head}u0,i0,"two\nlines"\nu3,i3,so\nu1,i1,"open\n{more}u2,i2,"end"\n{more}',
            has_header=has_header,
            **columns,
        )


def test_an_id_over_lines_is_no_id(load):
    with pytest.raises(
        UserError, match=r"line 4: column 'item': empty, or over several lines: is a quotation"
    ):
        load(f'{HEAD}u1,i0,fine\nu1,"i1,fine\nu2,i2",fine\n')


def test_texts_over_lines_are_read_and_told(load, caplog):
    review = "word\n" * 20
    with caplog.at_level("INFO"):
        data = load(HEAD + "u,i,one line\n" + "".join(f'u{n},i{n % 2},"{review}"\n' for n in range(50)))
    assert len(data.interactions) == 51
    assert "50 of 51 rows of" in caplog.text and "the longest from line 3 over 21" in caplog.text


def test_without_quotes_marks_are_letters(load):
    assert len(load(f'{HEAD}u1,i1,5" wide\n{EVENTS}', quote="").interactions) == 1 + 3 * LONGEST

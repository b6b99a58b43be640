"""Which column of a stranger's file is the events' time, and what `describe` says of how it is read."""

import pytest
from described import pasted

from trainer.data.describe.draft import describe


def test_the_only_times_are_the_events_time(tmp_path):
    rows = [f"u{n % 9},i{n % 7},{1_600_000_000 + n},{3 + n % 3}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,bought_at,rating", *rows]))
    toml = describe(str(tmp_path / "a.csv"))
    assert "# column 'bought_at' holds the only times" in toml and "min_rating = 4 below [data]" in toml
    data, settings = pasted(toml)
    assert data.interactions.has_time and settings.split.method == "auto"


@pytest.mark.parametrize(
    ("name", "written", "count", "read"),
    [
        ("timestamp", ["1600000000", "1600000000123"], 30, "1970-01-19 from '1600000000'"),
        ("timestamp", ["20231114233142"], 60, "2611-02-06 from '20231114233142'"),
        ("timestamp", ["202311"], 60, "1970-01-03 from '202311'"),
        ("timestamp", ["23/11/14"], 60, "0023-11-14 from '23/11/14'"),
        ("bought", ["23/11/14"], 60, "0023-11-14 from '23/11/14'"),
    ],
)
def test_times_of_a_wrong_unit_or_century_are_told(tmp_path, caplog, name, written, count, read):
    rows = [f"u{n % 9},i{n % 7},{written[n % len(written)]}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join([f"user_id,item_id,{name}", *rows]))
    told = f"{count} of 60 times lie before 1980-01-01 or after 2100-01-01, the first is read as "
    toml = describe(str(tmp_path / "a.csv"))
    assert f"# column {name!r}: {told}{read}: a time is ISO 8601" in toml
    pasted(toml)
    assert f"a.csv: {told}{read[:10]}: a time is ISO 8601" in caplog.text


def test_the_range_of_the_times_is_told(tmp_path, caplog):
    rows = [f"u{n % 9},i{n % 7},{1_600_000_000 + 86_400 * n}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,time", *rows]))
    toml = describe(str(tmp_path / "a.csv"))
    assert "# column 'time' holds times from 2020-09-13 to 2020-11-11\n" in toml
    pasted(toml)
    assert "times lie" not in toml + caplog.text


@pytest.mark.parametrize("when", ["09/23/2020 08:26", "Wed, 23 Sep 2020 08:26:00 GMT"])
def test_times_that_are_not_read_are_told(tmp_path, when):
    rows = [f'u{n % 9},i{n % 7},"{when}"' for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    toml = describe(str(tmp_path / "a.csv"))
    assert "# column 'timestamp' in 60 of the rows seen: not a time (ISO 8601, seconds" in toml
    assert f"20240131), {when!r}; loading refuses them" in toml


def test_gaps_in_the_only_times_are_told(tmp_path):
    rows = [f"u{n % 9},i{n % 7},{1_600_000_000 + n if n % 6 else ''}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,bought_at", *rows]))
    assert "# column 'bought_at' in 10 of the rows seen: not a time" in describe(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["date", "bought"])
def test_days_written_as_numbers_are_told(tmp_path, name):
    rows = [f"u{n % 9},i{n % 7},202401{1 + n % 31:02d}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join([f"user_id,item_id,{name}", *rows]))
    toml = describe(str(tmp_path / "a.csv"))
    assert toml.count(f"# column {name!r} is read as days, such as 20240131") == 1
    assert pasted(toml)[0].interactions.frame["timestamp"].min() == 1_704_067_200

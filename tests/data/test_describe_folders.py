"""Which files of a folder are the events, and which the tables of users and items."""

import tomllib

import pytest
from described import export, pasted

from trainer.data.describe.draft import describe
from trainer.data.synthetic.source import Synthetic


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_folder_with_tables_of_users_and_items(tmp_path, suffix):
    world = Synthetic(interactions=3_000).load()
    for name, frame in (("e", world.interactions), ("u", world.users), ("i", world.items)):
        path = tmp_path / f"{name}.{suffix}"
        frame.frame.write_parquet(path) if suffix == "parquet" else frame.frame.write_ndjson(path)
    data, _ = pasted(describe(str(tmp_path)))
    assert data.interactions.frame["item_id"].equals(world.interactions.frame["item_id"])
    kinds = {f.name: f.kind for f in (*data.schema.user, *data.schema.item, *data.schema.context)}
    assert kinds == {
        "segment": "category",
        "age": "number",
        "title": "text",
        "categories": "bag",
        "year": "number",
        "device": "category",
        "hour": "number",
    }


@pytest.mark.parametrize(
    ("parts", "beside", "path"),
    [
        (("part-00000.csv", "part-00001.csv", "part-00010.csv"), (), ""),
        (("part-00000.csv", "part-00001.csv", "part-00010.csv"), ("items.csv",), "/part-*.csv"),
        (("part-1.csv", "part-11.csv"), ("items.csv",), "/part-*.csv"),
        (("a.csv", "b.jsonl.csv"), ("items.tsv",), "/*.csv"),
        (("day=1/part.csv", "day=2/part.csv"), ("items.csv",), "/day=*/part.csv"),
        (("a[1]/part-1.csv", "a[1]/part-2.csv"), ("items.csv",), "/a[[]1]/part-*.csv"),
    ],
)
def test_parts_of_one_table_are_loaded_together(tmp_path, parts, beside, path):
    export(tmp_path, *parts)
    for name in beside:
        (tmp_path / name).write_text("item_id\ni0\n")
    toml = describe(str(tmp_path))
    assert tomllib.loads(toml)["data"]["source"]["path"] == f"{tmp_path}{path}"
    assert f"# {len(parts)} files with the same columns are the events together: " in toml
    assert len(pasted(toml)[0].interactions) == 60 * len(parts)


def test_parts_of_a_table_of_items_are_loaded_together(tmp_path):
    export(tmp_path, "events.csv")
    for part in range(2):
        rows = [f"i{n},{1.5 * n}" for n in range(part, 7, 2)]
        (tmp_path / f"items_{part}.csv").write_text("\n".join(["item_id,price", *rows]))
    assert len(pasted(describe(str(tmp_path)))[0].items.frame) == 7


def test_tables_that_cannot_be_loaded_together_are_told(tmp_path):
    export(tmp_path, "a.csv", "b.csv")
    (tmp_path / "items.csv").write_text("item_id\ni0\n")
    toml = describe(str(tmp_path))
    assert tomllib.loads(toml)["data"]["source"]["path"] == f"{tmp_path}/a.csv"
    told = "# left out, though they look like the events too: b.csv; put files with the same columns into a folder"
    assert told in toml
    export(tmp_path, "b.csv", header="user_id,item_id,tag")
    assert "# left out, though they look like the events too: b.csv\n" in describe(str(tmp_path))


def test_the_largest_part_is_looked_at(tmp_path):
    export(tmp_path, "2.csv")
    (tmp_path / "1.csv").write_text("user_id,item_id,timestamp\n")
    toml = describe(str(tmp_path))
    assert f"seen in the first 60 rows of {tmp_path}/2.csv" in toml
    assert len(pasted(toml)[0].interactions) == 60


def test_what_a_published_split_holds_out_does_not_train(tmp_path):
    for name in ("shop.train.csv", "shop.test.csv", "valid.csv"):
        (tmp_path / name).write_text("user_id,item_id\n" + "".join(f"u{n % 9},i{n % 7}\n" for n in range(60)))
    said = describe(str(tmp_path))
    assert f'path = "{tmp_path / "shop.train.csv"}"' in said
    assert (
        "# left out as a part of a published split: shop.test.csv, valid.csv; data.source.test=FILE" in said
    )


def test_a_folder_of_a_shop_as_it_is_published(tmp_path):
    export(tmp_path, "transactions.csv", header="household_id,product_id,transaction_timestamp")
    (tmp_path / "products.csv").write_text("product_id,brand\ni0,a\ni1,b\n")
    (tmp_path / "promotions.csv").write_text("product_id,week\ni0,1\ni0,2\n" * 50)
    (tmp_path / "demographics.csv").write_text("household_id,age\nu0,30\nu1,40\n")
    (tmp_path / "campaigns.csv").write_text("campaign_id,household_id\n1,u0\n2,u0\n" * 50)
    toml = describe(str(tmp_path))
    source = tomllib.loads(toml)["data"]["source"]
    assert source["columns"]["user"] == "household_id"
    assert source["users"]["path"].endswith("demographics.csv")
    assert source["items"]["path"].endswith("products.csv")
    assert "# left out, for they have several rows of one user: campaigns.csv" in toml
    assert "# left out, for they have several rows of one item: promotions.csv" in toml

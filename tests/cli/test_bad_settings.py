"""Settings that will not do: one line that names the setting and what would be right, before anything is done."""

import importlib.util
import re

import pytest

SYNTHETIC = ("data.source.name=synthetic", "data.source.interactions=1000")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--preset", "demoo"], r"unknown preset 'demoo'; did you mean 'demo'\?"),
        (["--preset", "qqqq"], r"unknown preset 'qqqq'; known: autoencoder, demo, "),
        (["--config", "none.toml"], r"no settings file at none\.toml"),
        (["train.epoch=3"], r"unknown setting train\.epoch; did you mean 'epochs'\?"),
        (["trian.epochs=3"], r"unknown setting trian; did you mean 'train'\?"),
        (["retrieval.id_dropuot=0.1"], r"unknown setting retrieval\.id_dropuot; did you mean 'id_dropout'\?"),
        (["ranking.targets=[{nmae='rating'}]"], r"unknown setting ranking\.targets\.0\.nmae; did you mean 'name'\?"),
        (["train.epochs=abc"], r"setting train\.epochs='abc': .*integer"),
        (["train.epochs=1.5"], r"setting train\.epochs=1\.5: .*integer"),
        (["train.epochs=0"], r"setting train\.epochs=0: .*greater than or equal to 1"),
        (["train.optimizer=sgd"], r"setting train\.optimizer='sgd': .*'adagrad' or 'adam'"),
        (["retrieval.temperature=-1"], r"setting retrieval\.temperature=-1: .*greater than 0"),
        (["retrieval.layers=64"], r"setting retrieval\.layers=64: .*tuple"),
        (["train.objective=ndcg@010"], r"no metric 'ndcg@010' .*train\.objective"),
        (["train.objective=ndcg@0"], r"no metric 'ndcg@0' "),
        (["train=4"], r"setting train=4: "),
        (["data.source=4"], r"setting data\.source=4: "),
        (["noequals"], r"'noequals' is not a setting; write it as data\.source\.path=FILE"),
        (["=3"], r"'=3' is not a setting"),
        (["export.model_name=a/b"], r"setting export\.model_name='a/b': "),
        (["evaluate.cutoffs=[0]"], r"setting evaluate\.cutoffs\.0=0: .*greater than 0"),
        (["retrieval.enabled=false", "ranking.enabled=false"], r"are both false: nothing would be trained"),
        (["train.joint=true", "ranking.enabled=false"], r"train\.joint=true trains both models; set retrieval\.enabled=true"),
        (
            ["data.source.name=table", "data.source.path=x.csv", "data.source.columns.itme=x"],
            r"unknown setting data\.source\.columns\.itme; did you mean 'item'\?",
        ),
        (
            ["data.source.name=table", "data.source.path=x.csv", "data.source.columns.user=[1]"],
            r"setting data\.source\.columns\.user=\[1\]: ",
        ),
        (
            ["data.source.name=table", "data.source.path=x.csv", "data.source.context.price.knid=number"],
            r"unknown setting data\.source\.context\.price\.knid; did you mean 'kind'\?",
        ),
        (["data.source.name=tabel"], r"unknown source 'tabel'; did you mean 'table'\?"),
        (["data.source.name=table"], r"setting data\.source\.path is needed and has no default"),
        (["data.source.interctions=4"], r"unknown setting data\.source\.interctions; did you mean 'interactions'\?"),
        (["data.source.interactions=lots"], r"setting data\.source\.interactions='lots': .*integer"),
        (["data.source.interactions=5"], r"setting data\.source\.interactions=5: .*100"),
        (["data.source.name=movielens", "data.source.version=3m"], r"setting data\.source\.version='3m': .*'1m'"),
        (["data.source.name=movielens", "data.source.path=none"], r"no folder none .*data\.source\.path"),
        (["retrieval.start.name=sdv"], r"unknown start 'sdv'; did you mean 'svd'\?"),
        (
            ["retrieval.embedding.name=lightgcn", "retrieval.embedding.layer=2"],
            r"unknown setting retrieval\.embedding\.layer; did you mean 'layers'\?",
        ),
        (["retrieval.encoder.name=meen"], r"unknown encoder 'meen'; did you mean 'mean'\?"),
        (["retrieval.encoder.half_lief=3"], r"unknown setting retrieval\.encoder\.half_lief; did you mean 'half_life'\?"),
        (["retrieval.negatives.name=mixd"], r"unknown negatives 'mixd'; did you mean 'mixed'\?"),
        (["retrieval.negatives.extra=many"], r"setting retrieval\.negatives\.extra='many': .*integer"),
        (["retrieval.loss.name=sofmax"], r"unknown loss 'sofmax'; did you mean 'softmax'\?"),
        (["retrieval.loss.name=hinge", "retrieval.loss.margin=-1"], r"setting retrieval\.loss\.margin=-1: .*greater than 0"),
        (["retrieval.loss.name=squared_error", "retrieval.loss.unobserved=-1"], r"setting retrieval\.loss\.unobserved=-1: .*greater"),
        (["retrieval.loss.name=squared_error", "retrieval.similarity=euclidean"], r"no score is above 0.*take dot or cosine"),
        (["retrieval.loss.name=binary_cross_entropy", "retrieval.loss.calibration=2"], r"setting retrieval\.loss\.calibration=2: .*1"),
        (["train.seed=-1"], r"setting train\.seed=-1: .*greater than or equal to 0"),
        (["evaluate.seed=99999999999"], r"setting evaluate\.seed=99999999999: .*less than 4294967296"),
        (["retrieval.l2=inf"], r"setting retrieval\.l2=inf: .*finite"),
        (["train.learning_rate=inf"], r"setting train\.learning_rate=inf: .*finite"),
        (["retrieval.loss.margin=1"], r"retrieval\.loss\.margin: retrieval\.loss\.name is 'softmax', and it belongs to 'hinge'"),
        (["data.source.columns=1"], r"data\.source\.columns: data\.source\.name is 'synthetic', and it belongs to 'table'"),
        (["export.index.name=brut"], r"unknown index 'brut'; did you mean 'brute_force'\?"),
        (["export.index.leaves=abc", "export.index.name=scann"], r"setting export\.index\.leaves='abc': .*integer"),
        (["evaluate.baselines=[\"populrity\"]"], r"unknown baseline 'populrity'; did you mean 'popularity'\?"),
        (["evaluate.ranking_baselines=['x']"], r"unknown rating_baseline 'x'; known: .*global_mean"),
    ],
)  # fmt: skip
def test_one_line_and_nothing_on_disk(trainer, tmp_path, words, line):
    answer = trainer("train", "--workdir", "run", *words)
    assert re.search(line, answer.error), answer.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evaluate.slices=['devise']"], "no column 'devise' in the schema; did you mean 'device'?"),
        (["ranking.targets=[{column='colr'}]"], "reads column 'colr'"),
        (["ranking.targets=[{column='device'}]"], "reads column 'device', which holds no numbers"),
        (["data.source.unrated=1.0"], "no training event carries the label of ranking target 'rating'"),
        (["data.min_rating=9"], "data.min_rating=9.0 leaves no training event"),
        (["data.split.method=predefined"], "brings no test part"),
    ],
)
def test_what_only_the_data_can_tell_is_told_before_training(trainer, tmp_path, words, line):
    answer = trainer("train", "--workdir", "run", *SYNTHETIC, *words)
    assert line in answer.error
    assert list(tmp_path.iterdir()) == []


def test_only_the_error_is_said_about_settings(trainer):
    answer = trainer("train", "train.epoch=3")
    assert answer.error and len(answer.err.splitlines()) == 1 and not answer.out
    assert answer.code == 1


def test_an_index_without_its_library_is_refused_at_once(trainer, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "scann" else find(name, *rest)
    )
    line = trainer("train", "export.index.name=scann").error
    assert "needs the scann package" in line and "EXTRAS=scann" in line


def test_a_config_file_that_is_not_toml(trainer, tmp_path):
    (tmp_path / "mine.toml").write_text("[train\nepochs = 3")
    assert "mine.toml is not TOML" in trainer("train", "--config", "mine.toml").error
    (tmp_path / "latin.toml").write_bytes("name = 'caf\xe9'".encode("latin-1"))
    assert "latin.toml is not TOML" in trainer("train", "--config", "latin.toml").error


@pytest.mark.parametrize(
    "words",
    [[], ["trian"], ["train", "--epochs", "3"], ["evaluate"], ["export"], ["describe"], ["presets", "extra"],
     ["tune", "--trials", "many"], ["train", "--workdir", "run", "a.b=1", "--oops"]],
)  # fmt: skip
def test_words_that_the_command_line_does_not_know(trainer, tmp_path, words):
    answer = trainer(*words)
    assert answer.code == 2
    assert "usage: python -m trainer" in answer.err
    assert "error: " in answer.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_tuning_what_is_not_a_setting(trainer, tmp_path):
    assert "setting tune.trials=0" in trainer("tune", "--preset", "demo", "--trials", "0").error
    wrong = 'tune.parameters={"retrieval.temprature"={float=[0.1,1.0]}}'
    assert "temprature" in trainer("tune", "--preset", "demo", wrong, "--workdir", "search").error
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_trace(trainer, capsys):
    from trainer.errors import UserError

    with pytest.raises(UserError, match="unknown setting"):
        trainer("train", "--debug", "train.epoch=3")
    assert "error:" not in capsys.readouterr().err


def test_what_nobody_foresaw_is_one_line_too(trainer, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("trainer.config.load", fail)
    assert trainer("train").error == "ZeroDivisionError: two lines (--debug shows where)"
    with pytest.raises(ZeroDivisionError):
        trainer("train", "--debug")


def test_interrupted(trainer, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.config.load", interrupt)
    answer = trainer("train")
    assert (answer.code, len(answer.err.splitlines())) == (130, 1)
    assert "goes on" in answer.err

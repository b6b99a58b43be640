"""The verbs of `python -m serving`, as a person types them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Handler, StubServer

from serving import __main__ as command_line
from serving.client import Recommendation
from serving.client.comparison import Pair, Replay, compare, latency_ms, ndcg, recall


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str], url: str) -> None:
        self._capsys, self._url = capsys, url

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        try:
            code = command_line.main([*words, *([] if "--url" in words else ["--url", self._url])])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def json(self, *words: str) -> Any:
        code, out, err = self(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], server: StubServer) -> Shell:
    return Shell(capsys, server.url)


def test_recommend_shows_titles_beside_the_history(shell: Shell) -> None:
    code, out, err = shell("recommend", "--user", "42", "--k", "2")
    assert (code, err) == (0, "")
    past, recommended = out.split("Recommended for user 42")
    assert "History of user 42, newest first" in past
    assert [line.split("│")[1:3] for line in past.splitlines() if line.startswith("│")] == [
        [" i3      ", " Tïtle i3 "],
        [" i1      ", " Tïtle i1 "],
    ]
    assert re.findall(r"│ +(\d) │ (i\d)      │ (Tïtle i\d) │ ([\d.]+) │", recommended) == [
        ("1", "i0", "Tïtle i0", "1.0000"),
        ("2", "i1", "Tïtle i1", "0.9900"),
    ]


def test_recommend_as_json(shell: Shell) -> None:
    assert shell.json(
        "recommend", "--history", "i1, i2", "--history", "i3", "--k", "1", "--exclude", "i1"
    ) == {
        "user_id": None,
        "path": "history",
        "history": [{"item_id": item, "title": f"Tïtle {item}"} for item in ("i3", "i2", "i1")],
        "recommendations": [{"rank": 1, "item_id": "i2", "title": "Tïtle i2", "score": 1.0}],
    }


def test_an_empty_history_leaves_the_one_remembered(shell: Shell) -> None:
    for words, past in ((["--history", "i5"], ["i5"]), (["--history", ""], ["i3", "i1"])):
        found = shell.json("recommend", "--user", "42", "--k", "1", *words)
        assert [row["item_id"] for row in found["history"]] == past
        assert found["recommendations"][0]["item_id"] == "i3"


def test_recommend_in_a_context(shell: Shell, server: StubServer) -> None:
    found = shell.json("recommend", "--user", "42", "--k", "1", "--context", "device=phone")
    assert found["recommendations"][0]["item_id"] == "i2"
    assert [path for path, _, _ in server.requests][:2] == [
        "/v1/models/recommender/metadata",
        "/v1/models/recommender:predict",
    ]
    code, _, err = shell("recommend", "--user", "42", "--context", "devise=phone")
    assert code == 2 and err == "error: context has 'devise', and the model has only device\n"
    code, _, err = shell("recommend", "--user", "42", "--context", "phone")
    assert code == 2 and "must look like device=phone, got 'phone'" in err


def test_an_unknown_user_and_a_short_list_are_told(shell: Shell) -> None:
    _, out, _ = shell("recommend", "--user", "[bold]new", "--k", "30")
    assert "The model remembers nothing of user [bold]new." in out
    assert "20 of 30: the corpus has no more to offer" in out


def test_a_model_without_titles_and_history_still_recommends(shell: Shell, server: StubServer) -> None:
    class Bare(Handler):
        def model(self, body: Any) -> Any:
            if body["signature_name"] in ("titles", "history"):
                body["signature_name"] = "none"
            return super().model(body)

    server.RequestHandlerClass = Bare
    answer = shell.json("recommend", "--user", "42", "--k", "1")
    assert answer["history"] == []
    assert answer["recommendations"] == [{"rank": 1, "item_id": "i0", "title": "", "score": 1.0}]


def test_similar(shell: Shell) -> None:
    answer = shell.json("similar", "--item", "i0", "--k", "1")
    assert answer["title"] == "Tïtle i0"
    assert answer["similar"] == [{"rank": 1, "item_id": "i1", "title": "Tïtle i1", "score": 1.0}]
    code, out, _ = shell("similar", "--item", "i0")
    assert code == 0 and "Most like i0 Tïtle i0" in out


def test_status_says_by_its_exit_code_whether_the_model_answers(shell: Shell, server: StubServer) -> None:
    assert [row["version"] for row in shell.json("status", "--wait", "5")["versions"]] == [12, 7]
    loading = {"model_version_status": [{"version": "1", "state": "LOADING", "status": {}}]}
    server.faults = [lambda handler: handler.reply(200, loading)]
    code, out, _ = shell("status")
    assert code == 1 and "LOADING" in out


def test_bench_is_bounded_and_counts(shell: Shell, server: StubServer) -> None:
    report = shell.json("bench", "--requests", "40", "--clients", "3", "--user", "42")
    assert report["requests"] == 40 and report["errors"] == {}
    assert report["requests_per_second"] > 0
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]
    assert len(server.requests) == 41
    code, out, _ = shell("bench", "--requests", "5")
    assert code == 0 and "requests/s" in out


def test_bench_counts_what_failed(shell: Shell, server: StubServer) -> None:
    server.faults = [None, lambda handler: handler.reply(400, {"error": "no"})]
    code, out, _ = shell("bench", "--requests", "3", "--clients", "1", "--user", "42")
    assert code == 1 and "BadRequest: no" in out


def test_compare_replays_against_both(shell: Shell, server: StubServer, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    lines = [
        {"user_id": "1", "relevant": ["i1"]},
        {"history": ["i1"], "relevant": ["i5", "x"]},
        {"user_id": "3"},
    ]
    requests.write_text("\n\n".join(map(json.dumps, lines)))
    report = shell.json("compare", "--a", "stable", "--b", "7", "--requests", str(requests), "--k", "3")
    assert (report["requests"], report["judged"], report["overlap"], report["rank_shift"]) == (3, 2, 1.0, 0.0)
    assert report["recall"]["a"] == report["recall"]["b"] == 0.5
    assert report["recall"]["low"] == report["recall"]["high"] == 0.0
    labels = [path.split("recommender/")[1] for path, _, _ in server.requests]
    a, b = "labels/stable:predict", "versions/7:predict"
    assert labels == ["labels/stable", "versions/7", a, b, b, a, a, b]
    code, out, _ = shell("compare", "--a", "stable", "--b", "stable", "--requests", str(requests))
    assert code == 0 and "95 % interval" in out
    code, out, _ = shell("compare", "--a", "stable", "--b", "canary", "--user", "1,2")
    assert code == 0 and "interval" not in out


def pair(a: str, b: str, *relevant: str) -> Pair:
    found = ([Recommendation(item, 0.0) for item in a], [Recommendation(item, 0.0) for item in b])
    return Pair(Replay("u", relevant=relevant), found, (0.001, 0.002))


def test_the_figures_of_a_comparison_by_hand() -> None:
    report: Any = compare([pair("abc", "bad", "b"), pair("abc", "abc", "c"), pair("", "")], 3)
    assert report["overlap"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert report["same"] == pytest.approx(2 / 3)
    assert report["rank_shift"] == pytest.approx(2 / 5)
    assert report["latency_ms"]["b"]["p50"] == 2.0
    assert report["judged"] == 2
    assert report["ndcg"]["a"] == pytest.approx((0.6309298 + 0.5) / 2)
    assert report["ndcg"]["b"] == pytest.approx((1 + 0.5) / 2)
    assert report["ndcg"]["difference"] == pytest.approx(0.1845351)
    assert report["ndcg"]["low"] == 0.0  # of the draws of two, a quarter has the difference 0 twice
    assert report["ndcg"]["high"] == pytest.approx(0.3690702)  # and a quarter 0.3690702
    lone: Any = compare([pair("a", "b", "a")], 1)
    assert (lone["recall"]["difference"], lone["recall"]["low"], lone["rank_shift"]) == (-1.0, None, None)


def test_the_interval_of_many_requests_is_that_of_their_mean() -> None:
    """Half of the requests gain 1: the mean of 400 has the standard error 0.025, and so the bounds 0.451 and 0.549."""
    report: Any = compare([pair("xy", "xy"[:n] + "z", "z") for n in (0, 2)] * 200, 1)
    assert (report["recall"]["a"], report["recall"]["b"], report["judged"]) == (0.0, 0.5, 400)
    assert report["recall"]["low"] == pytest.approx(0.451, abs=0.005)
    assert report["recall"]["high"] == pytest.approx(0.549, abs=0.005)


def test_a_request_may_have_its_own_depth() -> None:
    shallow, deep = pair("ab", "ba", "b"), pair("ab", "ba", "b")
    shallow = replace(shallow, replay=replace(shallow.replay, k=1))
    report: Any = compare([shallow, deep], 2)
    assert report["k"] is None and compare([deep], 2)["k"] == 2
    assert (report["recall"]["a"], report["recall"]["b"]) == (0.5, 1.0)


def test_a_replayed_request_brings_its_depth_and_its_context(
    shell: Shell, server: StubServer, tmp_path: Path
) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"user_id": "1", "k": 3, "exclude": ["i2"], "context": {"device": "phone"}}')
    report = shell.json("compare", "--a", "stable", "--b", "canary", "--requests", str(requests))
    assert report["k"] is None
    bodies = [body for path, _, body in server.requests if path.endswith(":predict")]
    inputs = {"user_id": ["1"], "k": [3], "exclude": [["i2"]], "device": ["phone"]}
    assert bodies == [{"signature_name": "recommend_in_context", "inputs": inputs}] * 2
    code, out, _ = shell("compare", "--a", "stable", "--b", "canary", "--requests", str(requests))
    assert code == 0 and "1.0000" in out


WISHES = {"allow": [["i1", "i2"]], "category": [["Film noir"]], "diversity": [0.5], "popularity": [-0.2]}


def test_wishes_of_a_command_and_of_a_replayed_request_are_sent(
    shell: Shell, server: StubServer, tmp_path: Path
) -> None:
    flags = ["--allow", "i1,i2", "--category", "Film noir", "--diversity", "0.5", "--popularity", "-0.2"]
    assert shell.json("recommend", "--user", "1", "--k", "1", *flags)["recommendations"][0]["item_id"] == "i3"
    requests = tmp_path / "requests.jsonl"
    wishes = {"allow": ["i1", "i2"], "categories": ["Film noir"], "diversity": 0.5, "popularity": -0.2}
    requests.write_text(json.dumps({"user_id": "1", "k": 1, **wishes}))
    shell.json("compare", "--a", "stable", "--b", "canary", "--requests", str(requests))
    bodies = [body for _, _, body in server.requests if body and body["signature_name"] == "recommend_with"]
    assert [body["inputs"] for body in bodies] == [
        {"user_id": ["1"], "history": [[""]], "k": [1], "exclude": [[""]], **WISHES}
    ] * 3


def test_metrics_and_percentiles_by_hand() -> None:
    assert recall("abcd", ["d", "z"], 4) == 0.5
    assert recall("abcd", ["d"], 3) == 0.0
    assert ndcg("ab", ["a", "b"], 2) == pytest.approx(1.0)
    figures = latency_ms([n / 1000 for n in range(1, 101)])
    assert figures == pytest.approx(
        {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0, "mean": 50.5}
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["recommend"], 2, "--user or --history must be given"),
        (["recommend", "--user", "1", "--k", "0"], 2, "k must be from 1"),
        (["recommend", "--user", "1", "--url", "localhost"], 2, "url must look like http://host:8501"),
        (
            ["recommend", "--user", "1", "--url", "http://127.0.0.1:1"],
            1,
            "`python -m serving serve` starts a server",
        ),
        (["recommend", "--user", "1", "--model", "other"], 1, "Servable not found"),
        (["bench", "--url", "http://10.0.0.1"], 2, "needs --allow-remote"),
        (["recommend", "--user", "1", "--k", "x"], 2, "argument --k: invalid int value: 'x'; see"),
        (["recommend", "--usr", "1"], 2, "unrecognized arguments: --usr 1; see `python -m serving --help`"),
        (["similar"], 2, "required: --item; see `python -m serving similar --help`"),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        (["status", "--wait", "nan"], 2, "timeout must be a number of at least 0, got nan"),
        (["bench", "--seconds", "nan"], 2, "--seconds must be a number of at least 0.001, got nan"),
        (["bench", "--seconds", "-3"], 2, "--seconds must be a number of at least 0.001, got -3"),
        (["bench", "--clients", "0"], 2, "--clients must be at least 1"),
        (["compare", "--a", "x", "--b", "y"], 2, "--requests or --user must give at least one"),
        (
            ["compare", "--a", "x", "--b", "y", "--requests", "no.jsonl"],
            2,
            "No such file",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(shell: Shell, words: list[str], code: int, message: str) -> None:
    found, out, err = shell(*words)
    assert (found, out) == (code, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON: "),
        ("[]", "must be a JSON object, got []"),
        (
            '{"user": "1"}',
            "has the unknown key 'user'; a request has user_id, history, exclude, allow, categories, diversity, "
            "popularity, relevant, context, k",
        ),
        ('{"user_id": 1}', "is no request: user_id must be a string, got 1"),
        ('{"exclude": ["1"]}', "is no request: user_id or history must be given"),
        ('{"user_id": "1", "relevant": "2"}', "is no request: relevant must be a list of ids"),
        ('{"user_id": "1", "allow": "2"}', "is no request: allow must be a list of ids"),
        ('{"user_id": "1", "diversity": "2"}', "is no request: diversity must be a number, got '2'"),
        ('{"user_id": "1", "k": 0}', "is no request: k must be from 1"),
        ('{"user_id": "1", "context": "tv"}', "is no request: context must be an object such as"),
    ],
)
def test_a_bad_line_of_requests_is_named(shell: Shell, tmp_path: Path, line: str, problem: str) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"user_id": "1"}\n' + line)
    code, _, err = shell("compare", "--a", "x", "--b", "y", "--requests", str(requests))
    assert code == 2 and err.startswith(f"error: {requests}:2 {problem}")


def test_debug_shows_where_an_error_came_from(shell: Shell) -> None:
    with pytest.raises(ValueError, match="user"):
        shell("recommend", "--debug")


def test_an_interrupt_is_no_error(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "_parse", interrupt)
    assert shell("status") == (130, "", "")


def test_the_api_key_comes_from_the_environment(
    shell: Shell, server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOMMENDER_API_KEY", "secret")
    code, out, err = shell("recommend", "--user", "1")
    assert code == 0 and "secret" not in out + err
    assert {headers["authorization"] for _, headers, _ in server.requests} == {"Bearer secret"}


@pytest.mark.parametrize("verb", [verb for verb in command_line.VERBS if verb not in ("serve", "demo")])
def test_help_helps(shell: Shell, verb: str) -> None:
    code, out, _ = shell(verb, "--help")
    assert code == 0 and "--url" in out and "--json" in out
    code, out, _ = shell("--help")
    assert code == 0 and verb in out

"""Versions and labels, away from TensorFlow: what is loaded, what a label may name, and when it moves."""

import itertools
import threading
import time

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.server.config import ModelConfig, read_models
from serving.server.errors import Code, RequestError, StartError
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.options import ServerOptions


@pytest.fixture
def base_path(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
    return tmp_path


def config(base_path, versions, **labels):
    text = "specific { " + " ".join(f"versions: {number}" for number in versions) + " }"
    policy = text_format.Parse(text, model_server_config_pb2.ModelConfig().model_version_policy)
    return ModelConfig("m", base_path, policy, labels)


def manager(configs, load=None, **options):
    settings = ServerOptions(file_system_poll_wait_seconds=0, **options)
    return Manager(configs, settings, load or (lambda name, version, path: version), Metrics())


ALLOWED = {"allow_version_labels_for_unavailable_models": True}


def test_the_highest_version_answers_and_each_by_its_number_and_label(base_path):
    served = manager([config(base_path, [1, 2], stable=1)], **ALLOWED)
    served.start()
    assert [served.get("m"), served.get("m", 1), served.get("m", label="stable")] == [2, 1, 1]
    assert [one.number for one in served.status("m")] == [2, 1]


def test_a_label_needs_a_version_that_is_loaded(base_path):
    """UpdateModelVersionLabelMap: unless the flag says otherwise. At start a version that loads will do, see `configure`."""
    with pytest.raises(
        StartError, match="assign label to version 9 of model m, which is not currently available"
    ):
        manager([config(base_path, [1], stable=9)]).start()
    served = manager([config(base_path, [1], stable=1)])
    served.start()
    assert served.get("m", label="stable") == 1
    allowed = manager([config(base_path, [1], stable=9)], **ALLOWED)
    allowed.start()
    with pytest.raises(RequestError, match=r"Specific\(m, 9\)") as caught:
        allowed.get("m", label="stable")
    assert caught.value.code == Code.NOT_FOUND


def test_a_change_whose_label_comes_too_early_is_refused_whole(base_path):
    served = manager([config(base_path, [1])])
    served.start()
    early = config(base_path, [1, 2], stable=2)
    with pytest.raises(StartError, match="assign label to version 2"):
        served.configure([early, ModelConfig("other", base_path)])
    served.poll()
    assert ([one.number for one in served.status("m")], served.known("other")) == ([1], "")
    served.configure([config(base_path, [1, 2])])
    served.configure([early])
    assert served.get("m", label="stable") == 2


def test_a_label_that_stays_needs_nothing(base_path):
    """The flag forbids a label in use to move, not to stay where its version has gone."""
    served = manager([config(base_path, [1, 2], stable=1)], **ALLOWED)
    served.start()
    served.configure([config(base_path, [2], stable=1)])
    served.configure([config(base_path, [2], stable=1)])
    with pytest.raises(RequestError, match=r"Specific\(m, 1\)"):
        served.get("m", label="stable")


@pytest.mark.parametrize("polled", [0, 3600])
def test_the_file_is_read_again_by_a_timer_of_its_own(base_path, polled):
    """--model_config_file_poll_wait_seconds is independent of --file_system_poll_wait_seconds."""
    loaded = threading.Event()

    def load(_name, version, _path):
        if version == 2:
            loaded.set()
        return version

    waits = {"file_system_poll_wait_seconds": polled, "model_config_file_poll_wait_seconds": 1}
    options = ServerOptions(model_name="m", model_base_path=base_path, **waits)
    served = Manager([config(base_path, [1])], options, load, Metrics())
    served.start()
    assert loaded.wait(10)  # the file, which asks for the latest version, has been read
    served.stop()


def test_a_label_in_use_never_moves_to_a_version_that_is_not_loaded(base_path):
    """The flag is for new labels only, "to ensure that the server does not prematurely assign the label"."""
    served = manager([config(base_path, [1], stable=1)], **ALLOWED)
    served.start()
    with pytest.raises(StartError, match="assign label to version 9"):
        served.configure([config(base_path, [1], stable=9)])
    assert served.get("m", label="stable") == 1
    served.configure([config(base_path, [1, 2], stable=1)])
    served.configure([config(base_path, [1, 2], stable=2)])
    assert served.get("m", label="stable") == 2


def test_a_new_model_brings_its_labels(base_path):
    served = manager([config(base_path, [1])], **ALLOWED)
    served.start()
    other = ModelConfig("other", base_path, labels={"canary": 2})
    served.configure([config(base_path, [1]), other])
    assert served.get("other", label="canary") == 2
    served.configure([other])
    with pytest.raises(RequestError, match=r"Latest\(m\)"):
        served.get("m")
    assert [one.state for one in served.status("m")] == ["END"]


def test_the_old_version_stays_until_a_new_one_serves(base_path):
    def load(_name, version, _path):
        if version == 2:
            raise RequestError(Code.DATA_LOSS, "broken")
        return version

    served = manager([config(base_path, [1])], load)
    served.start()
    served.configure([config(base_path, [2])])
    assert served.get("m") == 1
    broken, serving = served.status("m")
    assert (broken.state, broken.code, broken.message) == ("END", Code.DATA_LOSS, "broken")
    assert serving.state == "AVAILABLE"


@pytest.mark.parametrize(("failures", "states"), [(2, ["AVAILABLE", "END"]), (9, ["END", "AVAILABLE"])])
def test_a_version_is_tried_again_when_its_time_has_come(base_path, failures, states):
    """LoaderHarness::Load: every load_retry_interval_micros, whenever the disk is looked at, and here it never is again."""
    attempts, over = [], threading.Event()

    def load(_name, version, _path):
        if version == 2:
            attempts.append(time.monotonic())
            if len(attempts) == 3:
                over.set()
            if len(attempts) <= failures:
                raise RequestError(Code.DATA_LOSS, "broken")
        return version

    retries = {"max_num_load_retries": 2, "load_retry_interval_micros": 200_000}
    served = manager([config(base_path, [1])], load, **retries)
    served.start()
    served.configure([config(base_path, [2])])
    broken, serving = served.status("m")
    assert (broken.state, broken.message, serving.state) == ("END", "broken", "AVAILABLE")
    assert served.get("m") == 1
    assert over.wait(30)
    served._in_turn(served.poll)  # behind the last attempt; nothing follows
    assert [one.state for one in served.status("m")] == states
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert (len(gaps), min(gaps) >= 0.2) == (2, True)


def test_a_version_that_went_and_came_back_is_tried_again(base_path):
    """Moved away and back, the same files: whatever was in the way may be gone."""
    fails = [True]

    def load(_name, version, _path):
        if version == 2 and fails[0]:
            raise RequestError(Code.UNAVAILABLE, "a passing fault")
        return version

    served = manager([ModelConfig("m", base_path)], load, max_num_load_retries=0)
    (base_path / "2").rename(base_path / ".2")
    served.start()
    (base_path / ".2").rename(base_path / "2")
    served.poll()
    assert served.status("m")[0].message == "a passing fault"
    fails.clear()
    fails.append(False)
    served.poll()
    assert served.get("m") == 1
    for there, then in (("2", ".2"), (".2", "2")):
        (base_path / there).rename(base_path / then)
        served.poll()
    assert served.get("m") == 2


def test_a_version_that_leads_out_of_the_bundle_is_never_loaded(base_path, tmp_path):
    """Path tricks, while the server runs too: what is served lies in the bundle."""
    bundle = tmp_path / "bundle"
    (bundle / "models" / "m" / "1").mkdir(parents=True)
    (bundle / "manifest.json").write_text('{"format": 1}')
    served = manager(read_models(ServerOptions(bundle=bundle)))
    served.start()
    (bundle / "models" / "m" / "7").symlink_to(base_path / "2")
    served.poll()
    assert [served.get("m"), [one.number for one in served.status("m")]] == [1, [1]]
    (bundle / "models" / "m" / "7").unlink()
    (bundle / "models" / "m" / "8").mkdir()
    served.poll()
    assert served.get("m") == 8


def test_versions_that_are_gone_are_dropped(base_path):
    """All of them, too: then nothing answers, as in the real server."""
    served = manager([ModelConfig("m", base_path)])
    served.start()
    for number in (2, 1):
        assert served.get("m") == number
        (base_path / str(number)).rmdir()
        served.poll()
    with pytest.raises(RequestError) as caught:
        served.get("m")
    assert caught.value.code == Code.NOT_FOUND
